"""The release folder on disk: its checksums, and nothing half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.documents import release_folder
from yrpd.documents.release_folder import (
    CHECKSUMS,
    SIGNATURE,
    ReleaseFolder,
    listed_files,
    parse_checksums,
    release_name,
    render_checksums,
    replacing,
    update_folder,
    write_folder,
)
from yrpd.errors import ImageError

NAMES = st.text(st.sampled_from("abc-_./0"), min_size=1, max_size=12)


@given(st.dictionaries(NAMES, st.binary(min_size=32, max_size=32).map(bytes.hex)))
def test_checksums_are_read_as_they_were_written(hashes: dict[str, str]) -> None:
    assert parse_checksums(render_checksums(hashes)) == hashes


def test_a_name_of_an_image_in_a_registry_is_one_folder() -> None:
    assert release_name("registry:5000/team/name:1.0", "0123456789ab") == "registry-5000-team-name-1.0-01234567"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_everyone_may_read_it_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_folder(tmp_path / "release", {"a": b"1", "b/c": b"2"})
        update_folder(tmp_path / "release", {"a": b"3"}, {})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "release").rglob("*")}
    assert modes == {"a": 0o644, "b": 0o755, "c": 0o644, CHECKSUMS: 0o644}


@pytest.mark.parametrize("there", ["folder", "file"])
def test_nothing_takes_the_place_of_what_has_the_name(tmp_path: Path, there: str) -> None:
    if there == "folder":
        write_folder(tmp_path / "release", {"old": b"1"})
    else:
        (tmp_path / "release").write_text("somebody's")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ImageError, match="is there already, and a release is never replaced") as caught:
        write_folder(tmp_path / "release", {"new": b"2"})
    assert caught.value.exit_code == 6
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_a_kill_while_it_is_written_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    """Killed at its second file; what was begun has a hidden name, and a second try is not in its way."""
    program = (
        "import os, pathlib, sys; from yrpd.documents.release_folder import write_folder\n"
        "whole = pathlib.Path.write_bytes\n"
        "def killed(path, data): whole(path, data) if data == b'1' else os.kill(os.getpid(), 9)\n"
        "pathlib.Path.write_bytes = killed\n"
        "write_folder(pathlib.Path(sys.argv[1]), {'a': b'1', 'b': b'2'})\n"
    )
    scripts = str(Path(release_folder.__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "release")], env={"PYTHONPATH": scripts})
    assert done.returncode == -signal.SIGKILL
    assert [path.name.startswith(".release.") for path in tmp_path.iterdir()] == [True]
    write_folder(tmp_path / "release", {"a": b"1", "b": b"2"})
    assert listed_files(tmp_path / "release") == ["a", "b"]


def test_an_update_changes_the_checksums(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    write_folder(folder, {"a": b"1", "b": b"2"})
    before = parse_checksums((folder / CHECKSUMS).read_text())
    update_folder(folder, {"a": b"3"}, {"large": "0" * 64})
    after = parse_checksums((folder / CHECKSUMS).read_text())
    assert after["b"] == before["b"]
    assert after["a"] != before["a"]
    assert after["large"] == "0" * 64


def test_a_signed_release_is_not_updated(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    write_folder(folder, {"a": b"1"})
    (folder / SIGNATURE).write_text("signed")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ImageError, match="release is signed, so nothing is added to it") as caught:
        update_folder(folder, {"a": b"2"}, {})
    assert caught.value.next_command.startswith(f"rm {folder / SIGNATURE} ")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def _break_off(path: Path, error: Exception) -> None:
    with replacing(path) as scratch:
        scratch.write_bytes(b"half")
        raise error


def test_a_file_whose_writing_fails_is_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ImageError, match="could not be written: No space"):
        _break_off(path, OSError(28, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        _break_off(path, KeyboardInterrupt())  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"manifest\.json"):
        ReleaseFolder(tmp_path).read("manifest.json")
