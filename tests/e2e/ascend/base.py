"""A stand-in for the tutorial's base image: same folders, tools and installations, with vLLM's CPU build in it.

What it has of the real one, and from where: the published Dockerfiles of vllm-ascend v0.10.0rc1 and of its own base
(folders, editable installations, the entry point, Python's place, LD_LIBRARY_PATH of the driver), CPython 3.11.13
(setuptools 65.5.0 by ensurepip), CANN's version file, the real torch-npu wheel under the version that the base has. Not
of it: openEuler, and CPython 3.11.13 itself, in whose place a link leads to Debian's 3.11.2. Like the real one it
computes nothing without the driver that a host mounts in: ``hosts.py`` has what lies in the driver's folder here.
"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from git import Repo

from yrpd.building.context import Context
from yrpd.documents.patched import Patched

KERNELS = ("vllm_ascend/vllm_ascend_C.cpython-311-x86_64-linux-gnu.so", "vllm_ascend/lib/libcust_opapi.so")
BUILD_INFO = "__soc_version__ = 'ASCEND910B1'\n__sleep_mode_enabled__ = False\n"
DRIVER = "/usr/local/Ascend/driver/lib64"
LIBRARY = "libemulated_npu.so"
SITE = "python"
# As the real one's, the entry point sources what CANN and its libraries install: ATB's asks torch for its ABI, in every
# container, and where no driver is mounted torch says that it cannot load torch-npu.
_ENTRY_POINT = """#!/bin/bash
. /usr/local/Ascend/ascend-toolkit/set_env.sh
. /usr/local/Ascend/nnal/atb/set_env.sh
exec "$@"
"""
_SET_CANN = "export ASCEND_TOOLKIT_HOME=/usr/local/Ascend/ascend-toolkit/latest\n"
_SET_ATB = """abi=$(python3 -c "import torch; print(int(torch.compiled_with_cxx11_abi()))")
export ATB_HOME_PATH=/usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_${abi:-0}
"""
# What the tutorial's image has and the runtime image has not: git, pip, the pinned tree with compiled kernels, which
# pip installed editable as vllm-ascend's Dockerfiles do, torch-npu, which torch and transformers import, CANN's user.
# Then what only the emulated NPU needs: its vLLM calls itself 0.10.0.post2, and it computes on one core.
_DOCKERFILE = f"""ARG BASE
FROM ${{BASE}}
LABEL yrpd.stage=stand-in
COPY git /usr/bin/git
COPY tree /vllm-workspace/vllm-ascend
COPY torch_npu /opt/vllm/lib/python3.11/site-packages
COPY cann /usr/local/Ascend/ascend-toolkit/latest/x86_64-linux
COPY ascend /usr/local/Ascend
COPY wheels /tmp/wheels
RUN python3 -m ensurepip && ln -s pip3 /opt/vllm/bin/pip && useradd --uid 1000 HwHiAiUser && chmod 755 /usr/bin/git \\
    && python3 -m pip install --no-index --no-deps /tmp/wheels/* && rm -r /tmp/wheels \\
    && cd /vllm-workspace/vllm-ascend && cp vllm_ascend/_build_info.py /tmp \\
    && COMPILE_CUSTOM_KERNELS=0 SOC_VERSION=ASCEND910B1 SETUPTOOLS_SCM_PRETEND_VERSION=0.10.0rc1 VLLM_PLUGINS= \\
       TORCH_DEVICE_BACKEND_AUTOLOAD=0 \\
       python3 -m pip install --no-index --no-deps --no-build-isolation -e . \\
    && mv /tmp/_build_info.py vllm_ascend/ && ln -s /opt/vllm /usr/local/python3.11.13 \\
    && chmod 755 /usr/local/Ascend/entry_point.sh
ENV PATH=/usr/local/python3.11.13/bin:${{PATH}}
ENV LD_LIBRARY_PATH={DRIVER} PYTHONPATH={DRIVER}/{SITE}
ENV EMULATED_NPU_LIBRARY={DRIVER}/{LIBRARY} EMULATED_NPU_MEMORY_MB=4096 VLLM_VERSION=0.10.0 TORCHDYNAMO_DISABLE=1 \\
    OMP_NUM_THREADS=1
ENTRYPOINT ["/usr/local/Ascend/entry_point.sh"]
"""
# CANN's own version file. The tutorial's image has 8.2.RC1, for which no DataSystem is published on x86-64.
_CANN = "package_name=Ascend-cann-toolkit\nversion=8.5.0\narch=x86_64\nos=linux\n"
# The real wheel: its files, under the version that the tutorial's image has. Without a driver it cannot be imported.
_TORCH_NPU = "torch-npu==2.7.1 --hash=sha256:f785e2e2c75d4e4dc80c33e6f389d333deed021c7a015b91aa839df4fcec75de"
# setuptools is what CPython 3.11.13's ensurepip brings, which the published image is made with; wheel is what it builds
# editable wheels with.
_BUILD_TOOLS = ("setuptools==65.5.0", "wheel==0.45.1")


def stand_in(patched: Patched, machine_git: Path, scratch: Path) -> Context:
    """Return the build context of the base, whose Dockerfile takes the cpu flavour's runtime image as ``BASE``.

    Args:
        patched: The patched tree; the base has the pin that it was made from.
        machine_git: A git that runs in Debian.
        scratch: Folder for downloads.
    """
    context = Context()
    stream = io.BytesIO()
    with Repo(patched.worktree) as repository:
        repository.archive(stream, patched.pin.tree, format="tar")
    context.add_archive("tree", stream.getvalue())
    for name in KERNELS:
        context.add_bytes(f"tree/{name}", f"compiled {name}\n".encode())
    context.add_bytes("tree/vllm_ascend/_build_info.py", BUILD_INFO.encode())
    (wheel,) = _download(scratch / "torch-npu", _TORCH_NPU)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename.replace("torch_npu-2.7.1.dist-info", "torch_npu-2.7.1.dev20250724.dist-info")
            content = archive.read(member)
            if name.endswith(".dist-info/METADATA"):
                assert content.count(b"\nVersion: 2.7.1\n") == 1
                content = content.replace(b"\nVersion: 2.7.1\n", b"\nVersion: 2.7.1.dev20250724\n")
            if not member.is_dir():
                context.add_bytes(f"torch_npu/{name}", content)
    for one in _download(scratch / "wheels", *_BUILD_TOOLS):
        context.add_file(f"wheels/{one.name}", one)
    context.add_bytes("cann/ascend_toolkit_install.info", _CANN.encode())
    context.add_bytes("ascend/entry_point.sh", _ENTRY_POINT.encode())
    context.add_bytes("ascend/ascend-toolkit/set_env.sh", _SET_CANN.encode())
    context.add_bytes("ascend/nnal/atb/set_env.sh", _SET_ATB.encode())
    context.add_file("git", machine_git)
    context.add_bytes("Dockerfile", _DOCKERFILE.encode())
    return context


def _download(folder: Path, *requirements: str) -> list[Path]:
    """Return the wheels of some requirements, without what they require."""
    folder.mkdir()
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    options = ("download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder))
    command = [sys.executable, "-m", "pip", *options, "-r", str(folder / "requirements.txt")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return sorted(folder.glob("*.whl"))
