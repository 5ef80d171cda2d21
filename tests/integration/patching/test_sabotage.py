"""Sabotage from outside the series: the source repository, upstream, the disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.patching.conftest import Tiny, git, put
from yrpd.documents.series import load_lock
from yrpd.errors import EnvironmentFailure, PinMismatchError
from yrpd.git.repository import Repository
from yrpd.patching.apply import trees
from yrpd.project import Project


def _shallow_clone(tiny: Tiny, into: Path) -> Path:
    git(tiny.upstream.parent, "clone", "-q", "--bare", "--depth", "1", f"file://{tiny.upstream}", str(into))
    assert (into / "shallow").exists()
    return into


def _give_upstream_history(tiny: Tiny) -> None:
    """Let the pin's commit have a parent, so that a clone of it can be shallow."""
    first = git(tiny.upstream, "rev-parse", "HEAD")
    child = git(tiny.upstream, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "the same tree, with a past")
    git(tiny.upstream, "reset", "-q", "--hard", child)
    git(tiny.upstream, "tag", "-f", "v1")
    tiny.edit_release(first, child)


def test_a_tag_that_moved_after_the_fetch_is_found_at_its_line(tiny: Tiny) -> None:
    git(tiny.upstream, "commit", "-q", "--allow-empty", "-m", "moved")
    git(tiny.upstream, "tag", "-f", "v1")
    with pytest.raises(PinMismatchError) as caught:
        tiny.run("check")
    assert caught.value.document is not None
    (finding,) = caught.value.document["findings"]
    lines = tiny.project.release_file.read_text(encoding="utf-8").splitlines()
    assert (finding["id"], finding["file"], lines[finding["line"] - 1]) == ("tag", "release.toml", 'tag = "v1"')
    assert git(tiny.upstream, "rev-parse", "v1") in finding["message"]


def test_a_shallow_upstream_serves_the_pin(bare_tiny: Tiny) -> None:
    _give_upstream_history(bare_tiny)
    clone = _shallow_clone(bare_tiny, bare_tiny.upstream.parent / "mirror.git")
    bare_tiny.edit_release(f'repository = "{bare_tiny.upstream}"', f'repository = "file://{clone}"')
    assert bare_tiny.run("export")["state"] == "exported"
    assert bare_tiny.run("check")["passed"]


def test_a_shallow_clone_in_place_of_the_source_is_fetched_anew(bare_tiny: Tiny) -> None:
    _give_upstream_history(bare_tiny)
    made = bare_tiny.run("export")
    kept = bare_tiny.project.build / "v1" / "source.git"
    shutil.rmtree(kept)
    _shallow_clone(bare_tiny, kept)
    git(kept, "update-ref", "refs/heads/base", "HEAD")
    assert bare_tiny.run("check")["passed"]
    assert "the same tree, with a past" not in git(kept, "log", "--format=%B", "refs/heads/base")
    assert bare_tiny.run("patch")["commit"] == made["commit"]


def test_a_known_tag_without_a_commit_is_proved_by_its_tree(tiny: Tiny) -> None:
    tiny.release_upstream("v2", lambda folder: put(folder, {"new.py": "new\n"}))
    commit, tree = git(tiny.upstream, "rev-parse", "v2"), git(tiny.upstream, "rev-parse", "v2^{tree}")
    tiny.edit_release(f'commit = "{commit}"\n', "")
    assert tiny.move("begin", to="v2")["state"] == "rebased"
    assert tiny.run("patch", pin="v2")["state"] == "applied"
    assert tiny.run("check", pin="v2")["passed"]
    lock = load_lock(tiny.project.patches("v2"))
    assert (lock.pin.commit, lock.pin.tree) == (None, tree)
    tiny.edit_release(f'tree = "{tree}"', f'tree = "{"4" * 40}"')
    with pytest.raises(PinMismatchError, match=f"found {'4' * 40}"):
        tiny.run("patch", pin="v2")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, which can be filled and enlarged."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _fill(disk: Path, leave: int) -> Path:
    """Take all room but ``leave`` bytes."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb") as stream:
        stream.write(b"x" * (free - leave))
    return ballast


@pytest.mark.parametrize("leave_kib", [0, 4, 16, 40, 64])
def test_a_disk_that_fills_up_half_way_leaves_nothing_half_applied(tiny: Tiny, disk: Path, leave_kib: int) -> None:
    project = Project(disk / "project")
    shutil.copytree(tiny.project.root, project.root, ignore=shutil.ignore_patterns("build"))
    tiny.project = project
    tiny.run("check")  # fetches the source
    before = tiny.files()
    ballast = _fill(disk, leave_kib << 10)
    with pytest.raises(EnvironmentFailure, match=f"disk is full|{os.strerror(errno.ENOSPC)}") as caught:
        tiny.run("patch")
    assert (caught.value.next_command or "").startswith("df -h .")
    folder = trees(project, "v1")
    assert not folder.exists() or not [path for path in folder.iterdir() if not path.name.startswith(".")]
    with suppress(FileNotFoundError):
        assert "patch" not in (project.build / "v1" / "state.json").read_text(encoding="utf-8")
    assert tiny.files() == before
    ballast.unlink()
    document = tiny.run("patch")
    assert document["state"] == "applied"
    assert Repository(tiny.tree).rev_parse("HEAD") == load_lock(tiny.patches).end.commit
