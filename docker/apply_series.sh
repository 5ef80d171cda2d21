#!/bin/sh
# Proves that a folder holds the pinned tree, then applies the series to it with git am, and proves the result.
#
# Usage: apply_series.sh FOLDER SERIES PIN_TREE RESULT_TREE
#
# SERIES holds the patches, `series` (their order), `files` (the pinned tree's paths, each ended by NUL) and `index`
# (what `git ls-files -s` prints for it). Files that the tree does not have, such as compiled kernels, stay as they are.
set -eu
folder=$1 series=$2 pin_tree=$3 result_tree=$4
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# A repository of its own outside the folder: whatever git state the folder has is neither used nor changed.
export GIT_DIR="$scratch/git" GIT_WORK_TREE="$folder" GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export LC_ALL=C TZ=UTC GIT_TERMINAL_PROMPT=0 GIT_AUTHOR_NAME=yrpd GIT_AUTHOR_EMAIL=yrpd@localhost
export GIT_COMMITTER_NAME=yrpd GIT_COMMITTER_EMAIL=yrpd@localhost
cd "$folder"
git init --quiet
git add --force --pathspec-from-file="$series/files" --pathspec-file-nul
found=$(git write-tree)
if [ "$found" != "$pin_tree" ]; then
    echo "apply_series: $folder is not the pin: expected tree $pin_tree, found $found" >&2
    git ls-files --stage | diff "$series/index" - | head -20 >&2 || true
    exit 1
fi
git commit --quiet --no-gpg-sign --message="The pin"
grep -v -e '^#' -e '^[[:space:]]*$' "$series/series" | while read -r name; do
    git -c core.hooksPath=/dev/null am --quiet --keep-non-patch --keep-cr --no-gpg-sign \
        --committer-date-is-author-date "$series/$name"
    echo "applied $name"
done
found=$(git rev-parse 'HEAD^{tree}')
if [ "$found" != "$result_tree" ]; then
    echo "apply_series: the series ends at another tree: expected $result_tree, found $found" >&2
    exit 1
fi
echo "tree $found"
