#!/bin/sh
# Usage: check_cann.sh VERSION: does the base have the CANN that the DataSystem's client was chosen for?
set -eu
folder=/usr/local/Ascend/ascend-toolkit/latest
set -- "$1" "$folder"/*/ascend_toolkit_install.info
if [ ! -f "$2" ]; then
    echo "nothing in $folder tells CANN's version; release.toml says $1"
    exit 0
fi
found=$(sed -n 's/^version=//p' "$2")
if [ "$(echo "$found" | cut -d. -f1,2)" != "$(echo "$1" | cut -d. -f1,2)" ]; then
    echo "the base has CANN $found, release.toml says $1: set cann there and run invoke image again" >&2
    exit 1
fi
echo "CANN $found"
