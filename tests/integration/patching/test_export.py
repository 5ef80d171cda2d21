"""``invoke patch.export``: from sources and commits to the same files every time."""

from __future__ import annotations

import subprocess

import pytest

from tests.integration.patching.conftest import HOOK, Tiny, git
from yrpd.errors import ConfigurationError, PatchConflictError, PinMismatchError


def _hook(tiny: Tiny) -> bytes:
    return (tiny.patches / "hook-it-in.patch").read_bytes()


def test_exporting_twice_changes_nothing(tiny: Tiny) -> None:
    before = tiny.files()
    assert tiny.run("export")["state"] == "unchanged"
    assert tiny.files() == before


def test_the_connector_alone_changes_its_patch_and_the_lock(tiny: Tiny) -> None:
    (tiny.project.connector_source / "keys.py").write_text("A = 9\n")
    hook = _hook(tiny)
    assert tiny.run("export")["changed"] == ["add-the-connector.patch", "lock.toml"]
    assert _hook(tiny) == hook


def test_it_works_with_nothing_applied(tiny: Tiny) -> None:
    subprocess.run(["rm", "-r", str(tiny.project.build)], check=True)
    (tiny.project.connector_source / "new.py").write_text("NEW = 1\n")
    tiny.run("export")
    assert tiny.run("check")["passed"]


def test_an_amended_commit_goes_back_into_its_file(tiny: Tiny) -> None:
    first = (tiny.patches / "add-the-connector.patch").read_bytes()
    (tiny.tree / "setup.py").write_text("print('hooked')\n")
    git(tiny.tree, "commit", "-qa", "--amend", "--no-edit")
    assert tiny.run("export")["changed"] == ["hook-it-in.patch", "lock.toml"]
    assert b"+print('hooked')" in _hook(tiny)
    assert (tiny.patches / "add-the-connector.patch").read_bytes() == first
    assert tiny.run("patch")["state"] == "applied"
    assert tiny.run("check")["passed"]


def test_an_amend_that_changes_nothing_leaves_the_files_alone(tiny: Tiny) -> None:
    before = tiny.files()
    git(tiny.tree, "commit", "-q", "--amend", "--no-edit", GIT_COMMITTER_DATE="2030-01-01T00:00:00+0000")
    assert tiny.run("export")["state"] == "unchanged"
    assert tiny.files() == before
    assert tiny.run("patch")["reasons"][0].startswith("TREE_EXPORTED")


def test_a_new_commit_becomes_a_new_file_at_the_end(tiny: Tiny) -> None:
    (tiny.tree / "vllm_ascend/more.py").write_text("MORE = 1\n")
    git(tiny.tree, "add", "-A")
    git(tiny.tree, "commit", "-qm", HOOK.replace("Hook it in", "[Feature] Add more: ünïcode!"))
    assert tiny.run("export")["patches"][-1] == "feature-add-more-n-code.patch"
    assert tiny.run("check")["passed"]


def test_a_dropped_commit_removes_its_file(tiny: Tiny) -> None:
    git(tiny.tree, "reset", "-q", "--hard", "HEAD~1")
    document = tiny.run("export")
    assert document["removed"] == ["hook-it-in.patch"]
    assert not (tiny.patches / "hook-it-in.patch").exists()
    assert tiny.run("check")["passed"]


def test_a_reworded_subject_renames_the_file(tiny: Tiny) -> None:
    git(tiny.tree, "commit", "-q", "--amend", "-m", HOOK.replace("Hook it in", "Hook it in well"))
    document = tiny.run("export")
    assert (document["patches"][1], document["removed"]) == ("hook-it-in-well.patch", ["hook-it-in.patch"])


def test_connector_and_work_tree_may_change_at_once(tiny: Tiny) -> None:
    (tiny.project.connector_source / "keys.py").write_text("A = 9\n")
    (tiny.tree / "setup.py").write_text("print('hooked')\n")
    git(tiny.tree, "commit", "-qa", "--amend", "--no-edit")
    assert len(tiny.run("export")["changed"]) == 3
    tiny.run("patch")
    assert (tiny.tree / "vllm_ascend/distributed/yuanrong/keys.py").read_text() == "A = 9\n"
    assert (tiny.tree / "setup.py").read_text() == "print('hooked')\n"


def test_edits_that_are_not_committed_are_refused(tiny: Tiny) -> None:
    before = tiny.files()
    (tiny.tree / "setup.py").write_text("mine\n")
    with pytest.raises(ConfigurationError, match="not committed"):
        tiny.run("export")
    assert tiny.files() == before


@pytest.mark.parametrize("how", ["new commit", "amended"])
def test_the_connector_is_edited_in_its_sources_only(tiny: Tiny, how: str) -> None:
    (tiny.tree / "vllm_ascend/distributed/yuanrong/keys.py").write_text("mine\n")
    git(tiny.tree, "commit", "-qa", *(["--amend", "--no-edit"] if how == "amended" else ["-m", HOOK + "x"]))
    with pytest.raises(ConfigurationError, match="generated from connector_src"):
        tiny.run("export")


def test_a_merge_is_refused(tiny: Tiny) -> None:
    git(tiny.tree, "checkout", "-qb", "side", "HEAD~1")
    (tiny.tree / "side.py").write_text("x\n")
    git(tiny.tree, "add", "-A")
    git(tiny.tree, "commit", "-qm", "side")
    git(tiny.tree, "checkout", "-q", "series")
    git(tiny.tree, "merge", "-q", "-m", "merge", "side")
    with pytest.raises(ConfigurationError, match="is a merge"):
        tiny.run("export")


def test_an_empty_commit_is_refused(tiny: Tiny) -> None:
    git(tiny.tree, "commit", "-q", "--allow-empty", "-m", "empty")
    with pytest.raises(ConfigurationError, match="changes nothing"):
        tiny.run("export")


def test_two_commits_with_one_subject_are_refused(tiny: Tiny) -> None:
    (tiny.tree / "setup.py").write_text("again\n")
    git(tiny.tree, "commit", "-qa", "-m", HOOK)
    with pytest.raises(ConfigurationError, match=r"would be the file hook-it-in\.patch"):
        tiny.run("export")


def test_a_message_that_git_am_would_cut_is_refused(tiny: Tiny) -> None:
    git(tiny.tree, "commit", "-q", "--amend", "-m", HOOK.replace("Body", "Body\n---\nlost"))
    with pytest.raises(PatchConflictError, match="does not come back unchanged"):
        tiny.run("export")


def test_a_patch_edited_by_hand_is_not_made_official(tiny: Tiny) -> None:
    path = tiny.patches / "hook-it-in.patch"
    path.write_bytes(path.read_bytes().replace(b"+hook", b"+hand"))
    with pytest.raises(PinMismatchError, match="changed by hand"):
        tiny.run("export")
    assert b"+hand" in path.read_bytes()


def test_commits_made_on_another_series_do_not_undo_what_came_in_between(tiny: Tiny) -> None:
    kept = tiny.files()
    (tiny.tree / "setup.py").write_text("theirs\n")
    git(tiny.tree, "commit", "-qa", "--amend", "--no-edit")
    tiny.run("export")
    theirs = tiny.files()
    for name, content in kept.items():
        (tiny.patches / name).write_bytes(content)
    tiny.run("patch")
    (tiny.tree / "README.md").write_text("mine\n")
    git(tiny.tree, "commit", "-qa", "--amend", "--no-edit")
    for name, content in theirs.items():
        (tiny.patches / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match="made from another series"):
        tiny.run("export")
    assert tiny.files() == theirs


def test_a_dry_run_names_the_files_and_writes_none(tiny: Tiny) -> None:
    before = tiny.files()
    (tiny.project.connector_source / "keys.py").write_text("A = 9\n")
    assert tiny.run("export", dry_run=True)["changed"] == ["add-the-connector.patch", "lock.toml"]
    assert tiny.files() == before


def test_a_connector_folder_without_a_package_is_refused(tiny: Tiny) -> None:
    before = tiny.files()
    (tiny.project.connector_source / "__init__.py").unlink()
    with pytest.raises(ConfigurationError, match="no package"):
        tiny.run("export")
    assert tiny.files() == before


def test_caches_and_editor_leftovers_are_left_out(tiny: Tiny) -> None:
    cache = tiny.project.connector_source / "__pycache__"
    cache.mkdir()
    (cache / "keys.cpython-311.pyc").write_bytes(b"\0")
    (tiny.project.connector_source / ".keys.py.swp").write_bytes(b"\0")
    (tiny.project.connector_source / "keys.py.orig").write_bytes(b"x")
    assert tiny.run("export")["state"] == "unchanged"
