#!/usr/bin/env bash
# How much of the connector its tests execute, lines and branches together: `bash scripts/coverage.sh`; fails below 95 %.
# The unit tests run connector_src, those on vLLM's schedulers and real DataSystem workers the patched tree's copy of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
install_debian_packages "${DEBIAN_PACKAGES[@]}"
make_venv
export YRPD_FLAVOUR=cpu
.venv/bin/invoke patch build

data=$PWD/build/connector-coverage
rm -rf "$data" && mkdir -p "$data"
options=(--cov-config=scripts/coverage.toml --cov-report= -q -p no:cacheprovider)
COVERAGE_FILE=$data/.coverage.unit .venv/bin/python -m pytest tests/unit/connector --cov=connector_src/yuanrong "${options[@]}"

# The package is named by its folder: to find a module by its name, torch would be imported twice.
pin=$(sed -n 's/^default_pin = "\(.*\)"$/\1/p' release.toml)
python=build/$pin/venv-cpu/bin/python
package=$("$python" -c 'import importlib.util; print(importlib.util.find_spec("vllm_ascend").submodule_search_locations[0])')
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
VLLM_PLUGINS='' COVERAGE_FILE=$data/.coverage.vllm YUANRONG_INTERLEAVINGS=${YUANRONG_INTERLEAVINGS:-100} \
    "$python" -c 'import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))' "$site" \
    tests/integration/connector --cov="$package/distributed/yuanrong" "${options[@]}"

.venv/bin/coverage combine --quiet --keep --rcfile=scripts/coverage.toml --data-file="$data/all" "$data"/.coverage.*
.venv/bin/coverage report --rcfile=scripts/coverage.toml --data-file="$data/all" --fail-under=95
