#!/bin/sh
# Installs a patched vllm-ascend in place with `setup.py develop`, keeping the kernels that are compiled into it.
#
# Usage: rebuild.sh FOLDER VERSION SOC_VERSION KERNELS
#
# KERNELS is `keep` (the series touches nothing that is compiled) or `rebuild` (CANN's environment must be set).
set -eu
folder=$1 version=$2 soc_version=$3 kernels=$4
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$folder"
compiled() { find vllm_ascend -name '*.so' | sort; }
compiled > "$scratch/before"
# Says what the kernels were built for; an installation without kernels would overwrite it.
if [ -f vllm_ascend/_build_info.py ]; then cp vllm_ascend/_build_info.py "$scratch/"; fi
# The base installed it editable, by pip: its metadata would be found before what develop writes. No file of FOLDER goes.
python3 -m pip uninstall --yes --quiet vllm-ascend
rm -rf vllm_ascend.egg-info
compile=0
if [ "$kernels" = rebuild ]; then
    compile=1
    # Stands in for the driver's libraries, which only hosts have, while kernels are compiled.
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}:${ASCEND_TOOLKIT_HOME:-}/$(uname -m)-linux/devlib"
fi
# torch would load torch-npu whenever it is imported, which needs the driver; only hosts have one.
export TORCH_DEVICE_BACKEND_AUTOLOAD=0
export COMPILE_CUSTOM_KERNELS=$compile SOC_VERSION="$soc_version" SETUPTOOLS_SCM_PRETEND_VERSION="$version" VLLM_PLUGINS=
setuptools=$(python3 -c 'import setuptools; print(setuptools.__version__)')
# From 80 on, develop is a shim that would build in isolation and download torch and torch-npu.
if [ "${setuptools%%.*}" -lt 80 ]; then
    echo "rebuild: setup.py develop (setuptools $setuptools)"
    python3 setup.py develop --no-deps
else
    echo "rebuild: pip install --no-build-isolation -e . (setuptools $setuptools has only a shim for develop)"
    python3 -m pip install --no-build-isolation --no-deps --no-index -e .
fi
if [ "$kernels" = keep ]; then
    if [ -f "$scratch/_build_info.py" ]; then cp "$scratch/_build_info.py" vllm_ascend/; fi
    compiled > "$scratch/after"
    if ! cmp -s "$scratch/before" "$scratch/after"; then
        echo "rebuild: the compiled kernels changed although they were to be kept" >&2
        exit 1
    fi
    echo "rebuild: kept $(wc -l < "$scratch/before") compiled files"
fi
