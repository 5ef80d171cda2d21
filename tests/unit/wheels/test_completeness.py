"""A complete lock has whatever its packages require, extras included; the project's own is one."""

from __future__ import annotations

import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.wheels.completeness import (
    Stated,
    gaps,
    marker_environment,
    read_requirements,
    require_complete,
    stated,
    stated_by_wheel,
)
from yrpd.wheels.locks import read_lock

ROOT = Project.here().root
HERE = marker_environment("x86_64", (3, 11))


def _stated(name: str, version: str = "1", *requires: str) -> Stated:
    return Stated(canonicalize_name(name), version, requires)


def test_the_tools_lock_has_all_that_its_packages_require() -> None:
    names = [entry.name for entry in read_lock(ROOT / "requirements.lock").entries]
    installed = [stated(distribution(name).metadata) for name in names]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*map(Requirement, project["dependencies"]), *read_requirements(ROOT / "requirements.in")]
    assert gaps(installed, HERE, wanted=wanted) == []
    # The extra in docker[ssh] is what asks for paramiko; without it nothing would be missed.
    without = [one for one in installed if one.name != "paramiko"]
    assert any("paramiko" in gap for gap in gaps(without, HERE, wanted=wanted))
    assert not any("paramiko" in gap for gap in gaps(without, HERE))


def test_what_is_missing_is_named_with_who_requires_it() -> None:
    assert gaps([_stated("a", "1", "b>=2")], HERE) == ["a requires b>=2, the lock does not have it"]


def test_a_version_that_is_refused_is_a_gap() -> None:
    assert gaps([_stated("a", "1", "b>=2"), _stated("b", "1.9")], HERE) == ["a requires b>=2, the lock has 1.9"]


def test_a_version_before_a_release_counts_as_it_does_for_pip_with_a_lock() -> None:
    assert gaps([_stated("a", "1", "b>=2"), _stated("b", "2.1rc1")], HERE) == []


def test_an_extra_counts_from_where_it_is_asked_for() -> None:
    covering = _stated("coverage", "7", "tomli; extra == 'toml'")
    assert gaps([covering, _stated("pytest-cov", "7", "coverage>=7")], HERE) == []
    assert gaps([covering, _stated("pytest-cov", "7", "coverage[toml]>=7")], HERE) == [
        "coverage[toml] requires tomli; extra == 'toml', the lock does not have it".replace("'", '"')
    ]
    assert gaps([covering], HERE, wanted=[Requirement("coverage[toml]")]) != []


def test_an_extra_that_names_another_extra_of_the_same_package_is_followed() -> None:
    one = _stated("a", "1", "a[b]; extra == 'all'", "c; extra == 'b'")
    assert gaps([one], HERE, wanted=[Requirement("a[all]")]) == [
        'a[b] requires c; extra == "b", the lock does not have it'
    ]


@pytest.mark.parametrize(
    ("marker", "machine", "python", "counts"),
    [
        ("python_version < '3.12'", "x86_64", (3, 11), True),
        ("python_version < '3.12'", "x86_64", (3, 13), False),
        # Debian 12's Python is 3.11.2: a lock for 3.11 has to do for it too.
        ("python_full_version < '3.11.3'", "x86_64", (3, 11), True),
        ("platform_machine == 'aarch64'", "x86_64", (3, 11), False),
        ("platform_machine == 'aarch64'", "aarch64", (3, 11), True),
        ("sys_platform == 'win32'", "x86_64", (3, 11), False),
    ],
)
def test_a_marker_decides_for_the_python_that_the_wheels_are_for(
    marker: str, machine: str, python: tuple[int, int], counts: bool
) -> None:
    found = gaps([_stated("a", "1", f"b; {marker}")], marker_environment(machine, python))
    assert bool(found) == counts


def test_an_override_stands_in_for_what_packages_require() -> None:
    locked = [_stated("vllm", "1", "torch==2+cpu", "triton"), _stated("torch", "2")]
    assert len(gaps(locked, HERE)) == 2
    overrides = [Requirement("torch==2"), Requirement("triton; sys_platform == 'never'")]
    assert gaps(locked, HERE, overrides=overrides) == []
    assert gaps(locked, HERE, overrides=[Requirement("torch==3"), overrides[1]]) == [
        "vllm requires torch==3, the lock has 2"
    ]


graphs = st.dictionaries(
    st.sampled_from("abcdef"), st.frozensets(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3))), min_size=1
)


@given(graphs, st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)))
def test_a_lock_is_complete_exactly_when_no_requirement_is_open(
    graph: dict[str, frozenset[tuple[str, int]]], versions: dict[str, int]
) -> None:
    locked = [
        _stated(name, str(versions.get(name, 2)), *(f"{other}>={least}" for other, least in needs))
        for name, needs in graph.items()
    ]
    open_ones = {
        (name, other)
        for name, needs in graph.items()
        for other, least in needs
        if other not in graph or versions.get(other, 2) < least
    }
    found = gaps(locked, HERE)
    assert {tuple(gap.replace(">", " ").split()[::2][:2]) for gap in found} == open_ones


def test_a_wheel_is_read_without_what_it_carries_inside(tmp_path: Path) -> None:
    path = tmp_path / "a_b-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/_vendor/c-2.dist-info/METADATA", "Name: c\nVersion: 2\nRequires-Dist: d\n")
        archive.writestr("a_b-1.dist-info/METADATA", "Name: A.b\nVersion: 1\nRequires-Dist: e>1\n\nText\n")
    assert stated_by_wheel(path) == _stated("a-b", "1", "e>1")


def test_an_incomplete_lock_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "x.in").write_text("a[more]  # why\n")
    with pytest.raises(ConfigurationError, match=r"x\.lock is not complete: a requires b.*and 1 more") as caught:
        require_complete("x", [_stated("a", "1", "b", "c; extra == 'more'")], HERE, tmp_path, "make it")
    assert caught.value.next_command == "make it"
    (tmp_path / "x.overrides").write_text("b; sys_platform == 'never'\nc; sys_platform == 'never'\n")
    require_complete("x", [_stated("a", "1", "b", "c; extra == 'more'")], HERE, tmp_path, "make it")
