#!/usr/bin/env bash
# The test suite: `bash scripts/test.sh [unit|full] [pytest options]`.
#   unit   the unit tests alone; nothing is installed but .venv
#   (none) everything: unit, integration, end to end
#   full   everything, with the long form of the property, fault and bench tests
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

mode=all
case "${1:-}" in unit | full) mode=$1 && shift ;; esac

if [ "$mode" = unit ]; then
    make_venv
    exec .venv/bin/python -m pytest tests/unit "$@"
fi

install_debian_packages "${DEBIAN_PACKAGES[@]}"
make_venv
[ "$mode" = full ] && export YRPD_TEST_FULL=1 YUANRONG_INTERLEAVINGS=5000

.venv/bin/ruff check --quiet
.venv/bin/ruff format --quiet --check
.venv/bin/mypy

# The connector's tests on real vLLM run in the environment that `invoke build` makes, with the test tools behind it.
export YRPD_FLAVOUR=cpu
.venv/bin/invoke patch build
build_engine
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
python=$(.venv/bin/python -c 'import json, pathlib; s = json.loads(next(pathlib.Path("build").glob("v*/state.json")).read_text()); print(s["build-cpu"]["python"])')
status=0
VLLM_PLUGINS='' "$python" -c 'import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))' \
    "$site" -p no:cacheprovider tests/integration/connector tests/integration/vllm_ascend tests/integration/bench "$@" || status=$?

.venv/bin/python -m pytest tests/unit tests/integration tests/e2e --ignore tests/integration/connector --ignore tests/integration/vllm_ascend --ignore tests/integration/bench "$@" || status=$?
exit "$status"
