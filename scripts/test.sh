#!/usr/bin/env bash
# The test suite: `bash scripts/test.sh [MODE [STAGE ...]] [pytest options]`. What a mode will run and how long it takes is said first.
#   (none)    the product proved once, in 15 minutes: style, unit, git, the connector on a real DataSystem, and one
#             prefill/decode path served on the CPU and one on the emulated NPU
#   unit      the unit tests alone; nothing is installed but .venv
#   all       everything, in about an hour; what CI runs
#   full      everything, with the long form of the property, fault and bench tests
#   emulated  the patched vllm-ascend itself on the emulated NPU
#   coverage  which lines of the series served requests execute, on the emulated NPU and on the CPU; fails below 95 %
# Where the machine lacks what a stage needs, that stage is left out and said so at once; with CI set that ends with 8.
# Modes and stages are data in tests/suite/stages.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

mode=short
case "${1:-}" in short | unit | all | full | emulated | coverage) mode=$1 && shift ;; esac

# The registry is for the tests of image.lock and of pulled images, the ssh server for those of ssh:// engines, both on loopback;
# faketime is for two builds on two days, QEMU in user mode and the compiler are for programs of aarch64.
case $mode in
    unit) packages=() ;;
    all | full) packages=("${DEBIAN_PACKAGES[@]}" docker-registry openssh-server faketime qemu-user g++-aarch64-linux-gnu) ;;
    *) packages=(g++ gcc git libc6-dev libgomp1 libnuma1 etcd-server) ;;
esac
[ ${#packages[@]} -eq 0 ] || install_debian_packages "${packages[@]}" || say "       without them some stages are left out"
make_venv
unset YRPD_PIN YRPD_HOSTS  # the tests choose
YRPD_TEST_PACKAGES="${packages[*]}" PYTHONPATH=scripts:. exec .venv/bin/python -m tests.suite "$mode" "$@"
