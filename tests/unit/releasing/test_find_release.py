"""Which release a command works on."""

from __future__ import annotations

from pathlib import Path

import pytest

from yrpd.documents.image_record import record_file
from yrpd.documents.release_folder import MANIFEST
from yrpd.errors import ImageError
from yrpd.project import Project, write_json
from yrpd.releasing.commands import find_release


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "release.toml").write_bytes(Project.here().release_file.read_bytes())
    for name in ("name-1-cpu-0123-89abcdef", "name-1-cpu-0123"):
        (tmp_path / "dist" / name).mkdir(parents=True)
        (tmp_path / "dist" / name / MANIFEST).touch()
    return Project(tmp_path)


def _record(project: Project, **more: str) -> None:
    write_json(record_file(project, "cpu", ""), {"image": "name:1-cpu-0123", **more})


def test_it_is_the_one_that_the_last_image_was_made_into(project: Project) -> None:
    _record(project, release="name-1-cpu-0123-89abcdef")
    assert find_release(project, "cpu").name == "name-1-cpu-0123-89abcdef"


def test_it_may_be_named_or_be_a_folder_also_one_of_before(project: Project) -> None:
    assert find_release(project, "cpu", "name-1-cpu-0123").name == "name-1-cpu-0123"
    path = project.dist / "name-1-cpu-0123-89abcdef"
    assert find_release(project, "cpu", str(path)).path == path


def test_a_record_that_names_none_or_one_that_is_gone_leads_to_the_command_that_makes_it(project: Project) -> None:
    for more in ({}, {"release": "name-1-cpu-0123-00000000"}):
        _record(project, **more)
        with pytest.raises(ImageError, match="The last cpu image has no release folder") as caught:
            find_release(project, "cpu")
        assert caught.value.next_command == "invoke image --flavour cpu"


def test_without_any_image_it_is_said(project: Project) -> None:
    with pytest.raises(ImageError, match="There is no cpu image yet"):
        find_release(project, "cpu")
