"""The rebuild: ``python setup.py develop`` in the patched tree, as the upstream project is installed.

From setuptools 80 on that command is a shim that runs ``pip install -e .`` in an isolated environment, which downloads
torch and torch-npu. So with a newer setuptools the same installation is asked for directly, without isolation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.version import Version

LAST_WITH_DEVELOP = Version("80")


@dataclass(frozen=True)
class Rebuild:
    """How the tree is installed.

    Attributes:
        method: The command as people know it.
        reason: Why this one.
        arguments: What follows the Python interpreter.
    """

    method: str
    reason: str
    arguments: tuple[str, ...]


def choose_rebuild(setuptools: str) -> Rebuild:
    """Return how to install the tree with a given setuptools.

    Args:
        setuptools: Its version in the environment that installs.
    """
    if Version(setuptools) < LAST_WITH_DEVELOP:
        return Rebuild(
            "setup.py develop",
            f"setuptools {setuptools} is older than 80, so develop installs in place and downloads nothing",
            ("setup.py", "develop", "--no-deps"),
        )
    return Rebuild(
        "pip install --no-build-isolation --no-deps -e .",
        f"setuptools {setuptools} has only a shim for develop, which would download the build requirements",
        ("-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-e", "."),
    )


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
