"""How the patched tree is rebuilt, and whether its kernels have to be."""

from __future__ import annotations

import pytest
from packaging.version import Version

from yrpd.building.develop import rebuild_environment
from yrpd.documents.patched import touches_compiled
from yrpd.project import Project
from yrpd.wheels.locks import read_lock


@pytest.mark.parametrize("lock", ["runtime-cpu", "runtime-cpu-0.11.0"])
def test_the_locks_keep_setuptools_below_80_whose_develop_would_download(lock: str) -> None:
    entries = read_lock(Project.here().docker / f"{lock}.lock").entries
    (locked,) = (entry for entry in entries if entry.name == "setuptools")
    assert Version(locked.version) < Version("80")


def test_the_version_is_fixed_and_nothing_is_compiled() -> None:
    environment = rebuild_environment({"HOME": "/h", "COMPILE_CUSTOM_KERNELS": "1"}, "1+y.1", "ASCEND910B1")
    assert environment == {
        "HOME": "/h",
        "COMPILE_CUSTOM_KERNELS": "0",
        "SOC_VERSION": "ASCEND910B1",
        "SETUPTOOLS_SCM_PRETEND_VERSION": "1+y.1",
        "VLLM_PLUGINS": "",
    }


@pytest.mark.parametrize(
    ("name", "compiled"),
    [
        ("csrc/kernels/x.cpp", True),
        ("cmake/utils.cmake", True),
        ("CMakeLists.txt", True),
        ("setup.py", True),
        ("vllm_ascend/distributed/yuanrong/keys.py", False),
        ("docs/setup.py", False),
        ("vllm_ascend/csrc/x.py", False),
    ],
)
def test_only_a_change_of_compiled_parts_needs_a_kernel_rebuild(name: str, compiled: bool) -> None:
    assert touches_compiled(name) is compiled
