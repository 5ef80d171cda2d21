#!/usr/bin/env bash
# Can this machine run scripts/quickstart.sh? Looks at everything, changes nothing, and says all that is missing at once.
#   bash scripts/check_machine.sh [--disk-gb N] [--memory-gib N] [--system ID-VERSION] [--machine NAME]
# Ends with 0, or with 8 where something is missing. YRPD_CHECK_MACHINE=no lets quickstart.sh go on in spite of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

disk_gb=25 memory_gib=11 system=debian-12 machine=x86_64 # a machine sold with 12 GiB reports a little less
while [ $# -gt 0 ]; do
    case "$1" in
        --disk-gb) disk_gb=$2 ;;
        --memory-gib) memory_gib=$2 ;;
        --system) system=$2 ;;
        --machine) machine=$2 ;;
        *) say "error: no such option: $1." && say "next:  sed -n 2,4p scripts/check_machine.sh" && exit 2 ;;
    esac
    shift 2
done

missing=0
lacks() { # WHAT is missing, and what to do about it
    say "error: $1"
    say "next:  $2"
    missing=$((missing + 1))
}

# In GB: the free space, or the size, of a folder's file system.
disk_gb_of() { # FOLDER avail|size
    df --output="$2" --block-size=1GB "$1" | tail -n 1 | tr -d ' '
}

# What earlier runs wrote is not written again.
written_gb() {
    { du -sx --block-size=1GB build dist .venv /var/lib/yrpd-lab 2>/dev/null || true; } | awk '{ sum += $1 } END { print sum + 0 }'
}

memory_of_this_machine() { # in GiB: a container's limit, where it has one, else all
    local kib limit
    kib=$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)
    for limit in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
        if [ -r "$limit" ] && [ "$(cat "$limit")" != max ]; then
            kib=$(awk -v all="$kib" '{ limit = $1 / 1024; print int(limit < all ? limit : all) }' "$limit")
        fi
    done
    echo $((kib / 1048576))
}

found=$(. /etc/os-release 2>/dev/null && echo "${ID:-unknown}-${VERSION_ID:-unknown}" || echo unknown)
[ "$found" = "$system" ] \
    || lacks "this system is $found; packages and wheels were chosen for $system." "use a machine or a virtual machine with $system"
[ "$(uname -m)" = "$machine" ] \
    || lacks "this machine is $(uname -m); the wheels of vLLM's CPU build are for $machine." "use an $machine machine"
if [ "$(id -u)" != 0 ]; then
    lacks "only root can install Debian packages and make network namespaces." "sudo bash scripts/quickstart.sh"
elif ! unshare --net --mount true 2>/dev/null; then
    lacks "root may not make namespaces here, so this is a container without CAP_SYS_ADMIN; the lab's hosts need them." \
        "use a machine, a virtual machine, or a privileged container"
fi
find_python >/dev/null || missing=$((missing + 1))
memory=$(memory_of_this_machine)
[ "$memory" -ge "$memory_gib" ] \
    || lacks "this machine has $memory GiB of memory; two engines and two DataSystem workers need $memory_gib." "use a larger machine"
for folder in "$PWD" /var/lib; do
    free=$(disk_gb_of "$folder" avail)
    [ "$free" -lt "$disk_gb" ] || continue
    # Counting what is there takes a while, so only where it can make a difference.
    if [ "$(disk_gb_of "$folder" size)" -lt "$disk_gb" ] || [ $((free + $(written_gb))) -lt "$disk_gb" ]; then
        lacks "$folder has $free GB free; the checkout and the images need $disk_gb GB together." "df -h $folder"
        break # one file system is named once
    fi
done

[ "$missing" = 0 ] || exit 8
