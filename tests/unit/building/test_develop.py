"""How the patched tree is rebuilt, and whether its kernels have to be."""

from __future__ import annotations

import pytest

from yrpd.building.develop import choose_rebuild, rebuild_environment
from yrpd.documents.patched import touches_compiled


@pytest.mark.parametrize("version", ["79.0.1", "65.5.0", "79.9"])
def test_before_setuptools_80_the_tree_is_installed_by_develop(version: str) -> None:
    chosen = choose_rebuild(version)
    assert chosen.method == "setup.py develop"
    assert chosen.arguments == ("setup.py", "develop", "--no-deps")
    assert version in chosen.reason


@pytest.mark.parametrize("version", ["80.0.0", "80.0.0.post1", "82.1", "100"])
def test_from_setuptools_80_on_pip_installs_without_isolation_and_it_says_why(version: str) -> None:
    chosen = choose_rebuild(version)
    assert "--no-build-isolation" in chosen.arguments
    assert "--no-index" in chosen.arguments
    assert "shim" in chosen.reason


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
