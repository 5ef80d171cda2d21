"""openYuanrong's wheel: which objects stay, and what of the engineer's is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from yrpd.building.openyuanrong import OpenYuanrong, openyuanrong_wheels
from yrpd.building.openyuanrong_wheel import NAME
from yrpd.building.prepared import with_build_tag
from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.wheels.locks import Lock
from yrpd.wheels.wheelfile import executables, pure_metadata, write_wheel

TAG = "cp311-cp311-manylinux_2_34_x86_64"


def _wheel(folder: Path, name: str, tag: str = TAG) -> Path:
    path = folder / f"{name}-1.0-{tag}.whl"
    write_wheel(path, pure_metadata(name, "1.0", "x", tag))
    return path


def test_a_given_wheel_changes_what_the_environment_is_made_from(tmp_path: Path) -> None:
    project = Project.here()
    locked = OpenYuanrong.of(project)
    given = OpenYuanrong.of(project, str(_wheel(tmp_path, NAME)))
    assert locked.digest == OpenYuanrong.of(project).digest
    assert given.digest != locked.digest
    assert given.given is not None
    assert given.given.version == "1.0"


@pytest.mark.parametrize("name", ["other", "openyuanrong_datasystem"])
def test_a_wheel_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"not of {NAME}"):
        OpenYuanrong.of(Project.here(), str(_wheel(tmp_path, name)))


@pytest.mark.parametrize("name", ["no-wheel.txt", f"{NAME}-1.0-{TAG}.whl"])
def test_a_file_that_is_no_wheel_or_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no wheel"):
        OpenYuanrong.of(Project.here(), str(tmp_path / name))


def test_a_wheel_for_another_python_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    given = OpenYuanrong.of(Project.here(), str(_wheel(tmp_path, NAME, "cp39-cp39-manylinux_2_34_x86_64")))
    nothing = OpenYuanrong(Lock("openyuanrong", (), "0" * 64), given.given)
    with pytest.raises(ConfigurationError, match="does not fit"):
        openyuanrong_wheels(Project(tmp_path), nothing, Reporter())


def test_a_prepared_wheel_says_in_its_name_that_it_is_not_the_published_one() -> None:
    assert with_build_tag(f"x-1.0-{TAG}.whl", "1yrpd") == f"x-1.0-1yrpd-{TAG}.whl"
    assert with_build_tag(f"x-1.0-7-{TAG}.whl", "1yrpd") == f"x-1.0-1yrpd-{TAG}.whl"


def test_programs_of_a_wheel_stay_programs(tmp_path: Path) -> None:
    files = {"yr/etcd": b"x", "yr/a.py": b"", **pure_metadata("x", "1", "x", TAG)}
    write_wheel(tmp_path / "x.whl", files, executable=frozenset({"yr/etcd"}))
    assert executables(tmp_path / "x.whl") == {"yr/etcd"}
