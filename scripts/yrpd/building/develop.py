"""The rebuild: ``python setup.py develop`` in the patched tree, as the upstream project is installed.

From setuptools 80 on that command is a shim that builds in isolation and downloads torch and torch-npu, so the locks
keep setuptools below 80.
"""

from __future__ import annotations

from collections.abc import Mapping

METHOD = "setup.py develop"
ARGUMENTS = ("setup.py", "develop", "--no-deps")


def rebuild_environment(base: Mapping[str, str], version: str, soc_version: str) -> dict[str, str]:
    """Return the environment of a rebuild that compiles nothing.

    Args:
        base: The environment to start from.
        version: The version that the tree gets; setuptools_scm would guess another one from git.
        soc_version: Ascend chip name, which setup.py wants even so.
    """
    fixed = {
        "COMPILE_CUSTOM_KERNELS": "0",
        "SOC_VERSION": soc_version,
        "SETUPTOOLS_SCM_PRETEND_VERSION": version,
        "VLLM_PLUGINS": "",
    }
    return {**base, **fixed}
