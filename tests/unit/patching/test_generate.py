"""What of connector_src belongs to the generated patch."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.errors import ConfigurationError
from yrpd.git.repository import blob_id
from yrpd.patching.apply import Reason
from yrpd.patching.generate import DESTINATION, connector_files, subject
from yrpd.patching.source import base_message
from yrpd.project import Project
from yrpd.release import load_release


def test_files_are_sorted_and_leftovers_left_out(tmp_path: Path) -> None:
    for name in ("__init__.py", "z.py", "a/b.py", "__pycache__/x.pyc", ".hidden", "x.pyc", "y.py~", "a.rej"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = [file.path for file in connector_files(tmp_path)]
    assert found == [f"{DESTINATION}/__init__.py", f"{DESTINATION}/a/b.py", f"{DESTINATION}/z.py"]


def test_a_folder_without_a_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    with pytest.raises(ConfigurationError, match="no package"):
        connector_files(tmp_path)


@given(st.binary(max_size=200))
def test_a_blob_id_is_a_hash_of_40_digits(content: bytes) -> None:
    assert len(blob_id(content)) == 40
    assert blob_id(content) != blob_id(content + b"x")


def test_a_blob_id_is_gits() -> None:
    done = subprocess.run(["git", "hash-object", "--stdin"], input=b"abc\r\n", capture_output=True, check=True)
    assert done.stdout.decode().strip() == blob_id(b"abc\r\n")


def test_the_subject_is_the_first_line() -> None:
    assert subject("Add it \n\nBody\n") == "Add it"


def test_a_reason_is_a_name_and_a_sentence() -> None:
    assert Reason.PATCH_ADDED.say(what="x.patch") == "PATCH_ADDED: x.patch is new in the series"


def test_the_base_commit_names_the_pin_and_nothing_of_where_it_came_from() -> None:
    release = load_release(Project.here().release_file)
    pin = release.pins[release.release.default_pin]
    text = base_message(pin)
    assert f"commit {pin.commit}" in text
    assert pin.tree in text
    assert text == base_message(pin.model_copy(update={"repository": "elsewhere"}))
