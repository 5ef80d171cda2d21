"""Where the pin comes from, and that it is the pin whichever way."""

from __future__ import annotations

import io
import shutil
import socket
import tarfile
import time
from pathlib import Path

import pytest

from tests.integration.patching.conftest import UPSTREAM, Tiny, git, make_sdist
from yrpd.errors import ConfigurationError, EnvironmentFailure, PinMismatchError
from yrpd.git.repository import GitError, Repository
from yrpd.patching import source
from yrpd.patching.source import cached_sdist
from yrpd.release import Pin, load_release


def _commit(tiny: Tiny) -> str:
    commit = _pin(tiny).commit
    assert commit is not None
    return commit


def _pin(tiny: Tiny) -> Pin:
    return load_release(tiny.project.release_file).pins["v1"]


def _without_git(tiny: Tiny) -> None:
    tiny.upstream.rename(tiny.upstream.with_name("gone"))


def test_git_is_asked_first_and_fetches_one_commit(bare_tiny: Tiny) -> None:
    put_later = bare_tiny.upstream / "later.py"
    put_later.write_text("later\n")
    git(bare_tiny.upstream, "add", "-A")
    git(bare_tiny.upstream, "commit", "-qm", "later")
    bare_tiny.run("export")
    assert not cached_sdist(bare_tiny.project, _pin(bare_tiny)).exists()
    repository = Repository(bare_tiny.project.build / "v1" / "source.git")
    with pytest.raises(GitError):
        repository.tree_of(git(bare_tiny.upstream, "rev-parse", "HEAD"))


def test_a_moved_tag_is_a_mismatch(bare_tiny: Tiny) -> None:
    git(bare_tiny.upstream, "commit", "-q", "--allow-empty", "-m", "moved")
    git(bare_tiny.upstream, "tag", "-f", "v1")
    moved = git(bare_tiny.upstream, "rev-parse", "v1")
    with pytest.raises(PinMismatchError, match=f"expected commit {_pin(bare_tiny).commit}, found {moved}"):
        bare_tiny.run("export")
    assert not (bare_tiny.project.build / "v1" / "source.git").exists()


def test_an_annotated_tag_is_followed_to_its_commit(bare_tiny: Tiny) -> None:
    git(bare_tiny.upstream, "tag", "-f", "-a", "-m", "annotated", "v1", "HEAD")
    assert bare_tiny.run("export")["state"] == "exported"


def test_a_tag_that_is_gone_is_a_mismatch(bare_tiny: Tiny) -> None:
    git(bare_tiny.upstream, "tag", "-d", "v1")
    with pytest.raises(PinMismatchError, match="no such tag"):
        bare_tiny.run("export")


@pytest.mark.parametrize("way", ["git", "sdist"])
def test_another_tree_is_a_mismatch_by_either_way(bare_tiny: Tiny, way: str) -> None:
    tree = _pin(bare_tiny).tree
    bare_tiny.edit_release(tree, "2" * 40)
    if way == "sdist":
        _without_git(bare_tiny)
    with pytest.raises(PinMismatchError, match=f"expected {'2' * 40}, found {tree}"):
        bare_tiny.run("export")


def test_another_commit_is_a_mismatch(bare_tiny: Tiny) -> None:
    commit = _commit(bare_tiny)
    bare_tiny.edit_release(commit, "3" * 40)
    with pytest.raises(PinMismatchError, match=f"expected commit {'3' * 40}, found {commit}"):
        bare_tiny.run("export")


def test_a_flipped_byte_in_the_downloaded_sdist_is_a_mismatch_and_is_not_kept(bare_tiny: Tiny) -> None:
    _without_git(bare_tiny)
    content = bytearray(bare_tiny.sdist.read_bytes())
    content[100] ^= 1
    bare_tiny.sdist.write_bytes(content)
    with pytest.raises(PinMismatchError, match=f"expected sha256 {_pin(bare_tiny).sdist.sha256}, found"):
        bare_tiny.run("export")
    assert not [path for path in bare_tiny.project.cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("verb", ["patch", "check", "export"])
def test_a_flipped_byte_in_the_cached_sdist_is_reported_and_not_healed(tiny: Tiny, verb: str) -> None:
    cached = cached_sdist(tiny.project, _pin(tiny))
    cached.parent.mkdir(parents=True)
    content = bytearray(tiny.sdist.read_bytes())
    content[100] ^= 1
    cached.write_bytes(content)
    with pytest.raises(PinMismatchError, match="is damaged: expected sha256") as caught:
        tiny.run(verb)
    assert caught.value.next_command.startswith(f"rm {cached}")
    assert cached.read_bytes() == content
    cached.unlink()
    assert tiny.run("patch")["state"] == "unchanged"


def test_a_cached_sdist_needs_no_network_at_all(bare_tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_git(bare_tiny)
    cached = cached_sdist(bare_tiny.project, _pin(bare_tiny))
    cached.parent.mkdir(parents=True)
    shutil.copy(bare_tiny.sdist, cached)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert bare_tiny.run("export")["state"] == "exported"


def test_an_index_of_files_is_an_index(bare_tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_git(bare_tiny)
    page = tmp_path / "simple" / "tiny-upstream"
    page.mkdir(parents=True)
    shutil.copy(bare_tiny.sdist, page)
    (page / "index.html").write_text('<a href="tiny_upstream-1.0.tar.gz">tiny_upstream-1.0.tar.gz</a>')
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    assert bare_tiny.run("export")["state"] == "exported"


def test_nothing_in_reach_is_a_failure_of_the_environment_that_names_both_ways(
    bare_tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_git(bare_tiny)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(EnvironmentFailure, match=r"out of reach: git: .* indexes") as caught:
        bare_tiny.run("export")
    assert caught.value.exit_code == 8


def test_credentials_of_an_index_are_never_shown(bare_tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_git(bare_tiny)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(EnvironmentFailure) as caught:
        bare_tiny.run("export")
    assert "127.0.0.1" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_host_that_never_answers_is_given_up_within_seconds(bare_tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "REACH_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bare_tiny.edit_release(str(bare_tiny.upstream), f"http://127.0.0.1:{silent.getsockname()[1]}/x.git")
        start = time.monotonic()
        assert bare_tiny.run("export")["state"] == "exported"
    assert time.monotonic() - start < 60


def test_a_repository_that_is_no_url_is_no_option_of_git(bare_tiny: Tiny, tmp_path: Path) -> None:
    bare_tiny.edit_release(f'"{bare_tiny.upstream}"', f'"--upload-pack=touch {tmp_path}/owned"')
    bare_tiny.run("export")
    assert not (tmp_path / "owned").exists()


def test_members_that_leave_the_folder_are_refused(bare_tiny: Tiny, tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        member = tarfile.TarInfo("../evil")
        member.size = 1
        stream.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "into" / "deep").mkdir(parents=True)
    with pytest.raises(PinMismatchError, match="cannot be unpacked"):
        source.unpack(archive, tmp_path / "into" / "deep")
    assert not (tmp_path / "into" / "evil").exists()


def test_generated_paths_outside_the_sdist_are_refused(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "precious").write_text("x")
    for name in ("../precious", ".", ""):
        with pytest.raises(ConfigurationError, match="not inside"):
            source.drop_generated(tmp_path / "top", (name,))
    assert (tmp_path / "precious").exists()


def test_an_sdist_with_one_more_file_has_another_tree(bare_tiny: Tiny) -> None:
    _without_git(bare_tiny)
    old = _pin(bare_tiny).sdist.sha256
    bare_tiny.edit_release(old, make_sdist(bare_tiny.sdist, {**UPSTREAM, "extra.log": "x"}))
    with pytest.raises(PinMismatchError, match="is not the pin's"):
        bare_tiny.run("export")
