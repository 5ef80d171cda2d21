"""``invoke patch.rebase``: a series moves on, or nothing happens."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.patching.conftest import HOOK, UPSTREAM, Tiny, git, make_sdist
from yrpd.documents.series import load_lock
from yrpd.errors import ConfigurationError, PatchConflictError, PinMismatchError
from yrpd.patching import rebase
from yrpd.patching.source import cached_sdist
from yrpd.release import load_release

HOOKED = "vllm_ascend/distributed/__init__.py"


def rewrite(old: str, new: str, path: str = HOOKED) -> Any:
    def change(upstream: Path) -> None:
        text = (upstream / path).read_text(encoding="utf-8")
        assert old in text
        (upstream / path).write_text(text.replace(old, new), encoding="utf-8")

    return change


def rename(upstream: Path) -> None:
    git(upstream, "mv", HOOKED, "vllm_ascend/moved.py")


def snapshot(tiny: Tiny) -> dict[str, str]:
    """Everything of the project but what can be made again, and the work trees."""
    root = tiny.project.root
    kept = [path for path in root.rglob("*") if path.is_file() and path.name not in ("index", ".patch.flock")]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in kept
        if "source.git" not in path.parts
    }


def conflict(tiny: Tiny, **options: Any) -> dict[str, Any]:
    with pytest.raises(PatchConflictError) as caught:
        tiny.move("begin", **options)
    assert caught.value.document is not None
    return caught.value.document


def stopped(tiny: Tiny) -> Path:
    tiny.release_upstream("v2", rewrite("line 20\n", "line twenty\n"))
    return tiny.project.root / str(conflict(tiny, to="v2")["worktree"])


def resolve(tree: Path) -> None:
    text = (tree / HOOKED).read_text(encoding="utf-8")
    before, after = text.partition("<<<<<<<")[0], text.partition(">>>>>>>")[2].partition("\n")[2]
    (tree / HOOKED).write_text(f"{before}line twenty\nhook\n{after}", encoding="utf-8")


def test_a_series_that_fits_is_a_new_folder_with_a_lock_and_works_at_once(tiny: Tiny) -> None:
    tiny.release_upstream("v2", rewrite("line 2\n", "line two\n"))
    before = tiny.files()
    document = tiny.move("begin", to="v2")
    assert (document["state"], document["from"], document["to"]) == ("rebased", "v1", "v2")
    assert document["patches"] == [{"file": "hook-it-in.patch", "outcome": "carried"}]
    assert tiny.files() == before
    assert not rebase.place(tiny.project).exists()
    assert load_lock(tiny.project.patches("v2")).digest == document["series_digest"]
    assert tiny.run("patch", pin="v2")["tree"] == document["tree"]
    assert tiny.run("check", pin="v2")["passed"]
    assert tiny.run("patch", pin="v2")["state"] == "unchanged"
    assert tiny.run("export", pin="v2")["state"] == "unchanged"


def test_a_conflict_names_patch_and_file_and_what_each_side_did(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.release_upstream("v2", rewrite("line 20\n", "line twenty\n"))
    document = conflict(tiny, to="v2")
    assert document["conflicts"] == [{"patch": "hook-it-in.patch", "file": HOOKED}]
    assert document["patches"] == [{"file": "hook-it-in.patch", "outcome": "pending"}]
    tree = document["worktree"]
    assert "<<<<<<<" in (tiny.project.root / tree / HOOKED).read_text()
    said = capsys.readouterr().err
    assert f"{tree}/{HOOKED}: hook-it-in.patch" in said
    upstream, before, patch = said.partition("++<<<<<<<")[2].replace("++=======", "++|||||||").split("++|||||||")
    assert ("line twenty" in upstream, "line 20" in before, "hook" in patch) == (True, True, True)
    assert not tiny.project.patches("v2").exists()
    assert document["next"].endswith(f"git -C {tree} add -A && invoke patch.rebase --to v2")


def test_resolved_and_staged_files_are_committed_with_the_patchs_message_and_author(tiny: Tiny) -> None:
    tree = stopped(tiny)
    resolve(tree)
    git(tree, "add", "-A")
    assert tiny.move("begin", to="v2", dry_run=True)["state"] == "ready"
    document = tiny.move("begin", to="v2")
    assert document["patches"] == [{"file": "hook-it-in.patch", "outcome": "resolved"}]
    old, new = (tiny.project.patches(pin) / "hook-it-in.patch" for pin in ("v1", "v2"))
    assert old.read_bytes().split(b"diff --git")[0] == new.read_bytes().split(b"diff --git")[0]
    tiny.run("patch", pin="v2")
    assert tiny.run("check", pin="v2")["passed"]


def test_a_commit_of_the_users_own_is_taken_as_it_is(tiny: Tiny) -> None:
    tree = stopped(tiny)
    resolve(tree)
    git(tree, "commit", "-q", "-a", "-m", "Hook it in\n\nDifferently.\n\nWhy: because\nUpstream: no\nRemoval: later")
    assert tiny.move("begin", to="v2")["state"] == "rebased"
    assert b"Differently." in (tiny.project.patches("v2") / "hook-it-in.patch").read_bytes()


def test_a_commit_of_the_users_own_may_have_another_subject(tiny: Tiny) -> None:
    tree = stopped(tiny)
    resolve(tree)
    git(tree, "commit", "-q", "-a", "-m", "Hook it\n\nWhy: because\nUpstream: no\nRemoval: later")
    outcomes = {patch["file"]: patch["outcome"] for patch in tiny.move("begin", to="v2")["patches"]}
    assert outcomes == {"hook-it-in.patch": "dropped", "hook-it.patch": "resolved"}


@pytest.mark.parametrize("fits", [True, False])
def test_a_message_with_comment_lines_survives(tiny: Tiny, fits: bool) -> None:
    git(tiny.tree, "commit", "-q", "--amend", "--cleanup=verbatim", "-m", HOOK.replace("Body", "# Heading\nBody"))
    tiny.run("export")
    if fits:
        tiny.release_upstream("v2", rewrite("line 2\n", "line two\n"))
        tiny.move("begin", to="v2")
    else:
        tree = stopped(tiny)
        resolve(tree)
        git(tree, "add", "-A")
        tiny.move("begin", to="v2")
    assert b"\n# Heading\nBody" in (tiny.project.patches("v2") / "hook-it-in.patch").read_bytes()


def test_a_rebase_given_up_with_git_comes_up_again(tiny: Tiny) -> None:
    tree = stopped(tiny)
    git(tree, "rebase", "--abort")
    assert conflict(tiny, to="v2")["state"] == "conflict"


def test_a_rebase_continued_with_git_is_taken_as_it_is(tiny: Tiny) -> None:
    tree = stopped(tiny)
    resolve(tree)
    git(tree, "add", "-A")
    git(tree, "rebase", "--continue", GIT_EDITOR="true")
    assert tiny.move("begin", to="v2")["patches"] == [{"file": "hook-it-in.patch", "outcome": "resolved"}]


@pytest.mark.parametrize("stage", [False, True])
def test_open_conflicts_and_staged_markers_do_not_go_on(tiny: Tiny, stage: bool) -> None:
    tree = stopped(tiny)
    if stage:
        git(tree, "add", "-A")
    with pytest.raises(PatchConflictError, match=r"markers were staged: .*:\d+" if stage else "Still in conflict"):
        tiny.move("begin", to="v2")
    assert not tiny.project.patches("v2").exists()


def test_resolved_but_forgotten_files_do_not_go_on(tiny: Tiny) -> None:
    tree = stopped(tiny)
    resolve(tree)
    git(tree, "add", "-A")
    (tree / "forgotten.py").write_text("")
    with pytest.raises(PatchConflictError, match=r"not committed: forgotten\.py"):
        tiny.move("begin", to="v2")


def test_what_upstream_has_already_is_dropped_and_said(tiny: Tiny) -> None:
    tiny.release_upstream("v2", rewrite("line 20\n", "line 20\nhook\n"))
    document = tiny.move("begin", to="v2")
    assert document["patches"] == [{"file": "hook-it-in.patch", "outcome": "dropped"}]
    assert [entry.file for entry in load_lock(tiny.project.patches("v2")).patches] == ["add-the-connector.patch"]


def test_resolving_to_nothing_drops_the_patch(tiny: Tiny) -> None:
    tree = stopped(tiny)
    git(tree, "checkout", "--ours", HOOKED)
    git(tree, "add", "-A")
    assert tiny.move("begin", to="v2")["patches"][0]["outcome"] == "dropped"


def test_a_file_that_upstream_removed_is_a_conflict(tiny: Tiny) -> None:
    tiny.release_upstream("v2", lambda upstream: (upstream / HOOKED).unlink())
    assert conflict(tiny, to="v2")["conflicts"] == [{"patch": "hook-it-in.patch", "file": HOOKED}]


def test_a_file_that_upstream_renamed_is_followed(tiny: Tiny) -> None:
    tiny.release_upstream("v2", rename)
    assert tiny.move("begin", to="v2")["patches"][0]["outcome"] == "carried"
    assert b"b/vllm_ascend/moved.py" in (tiny.project.patches("v2") / "hook-it-in.patch").read_bytes()


def test_what_gives_a_rebase_up_leaves_everything_as_it_was(tiny: Tiny) -> None:
    tiny.release_upstream("v2", rewrite("line 20\n", "line twenty\n"))
    before = snapshot(tiny)
    with pytest.raises(PatchConflictError) as caught:
        tiny.move("begin", to="v2")
    assert snapshot(tiny) != before
    assert caught.value.next_command.endswith("(or, to give it up: invoke patch.rebase --to v2 --abort)")
    assert tiny.move("begin", to="v2", abort=True, dry_run=True)["state"] == "aborted"
    assert snapshot(tiny) != before, "a dry run"
    assert tiny.move("begin", to="v2", abort=True)["state"] == "aborted"
    assert snapshot(tiny) == before
    with pytest.raises(ConfigurationError, match="No rebase to v2 is under way"):
        tiny.move("begin", to="v2", abort=True)
    assert conflict(tiny, to="v2")["state"] == "conflict"


def test_a_dry_run_says_what_fits_and_leaves_nothing(tiny: Tiny) -> None:
    tiny.release_upstream("v2", rewrite("line 20\n", "line twenty\n"))
    before = snapshot(tiny)
    document = tiny.move("begin", to="v2", dry_run=True)
    assert document["tags"]["v2"] == {
        "fits": False,
        "patches": [{"file": "hook-it-in.patch", "fit": "conflict", "conflicts": [HOOKED]}],
    }
    assert snapshot(tiny) == before
    tiny.release_upstream("v3", rewrite("line twenty\n", "line 20\nhook\n"))
    assert tiny.move("begin", to="v3", dry_run=True)["tags"]["v3"] == {
        "fits": True,
        "patches": [{"file": "hook-it-in.patch", "fit": "contained", "conflicts": []}],
    }


def test_sources_that_come_from_sdists_do_as_well(tiny: Tiny) -> None:
    tiny.release_upstream("v2", rewrite("line 2\n", "line two\n"))
    made = tiny.links / "v2.tar.gz"
    sha256 = make_sdist(made, {**UPSTREAM, HOOKED: UPSTREAM[HOOKED].replace("line 2\n", "line two\n")})
    tiny.edit_release("0" * 64, sha256)
    shutil.rmtree(tiny.project.build)
    kept = cached_sdist(tiny.project, load_release(tiny.project.release_file).upstream["v2"])
    kept.parent.mkdir(parents=True)
    made.rename(kept)
    tiny.upstream.rename(tiny.upstream.with_name("gone"))
    assert tiny.move("begin", to="v2", dry_run=True)["tags"]["v2"]["fits"] is True
    assert tiny.move("begin", to="v2")["state"] == "rebased"
    assert tiny.run("check", pin="v2")["passed"]


@pytest.mark.parametrize("committed", [False, True])
def test_a_rebase_killed_at_its_second_patch_keeps_what_was_decided_about_the_first(
    tiny: Tiny, committed: bool
) -> None:
    hook = tiny.tree / HOOKED
    hook.write_text(hook.read_text(encoding="utf-8").replace("line 5\n", "line 5\nmore\n"), encoding="utf-8")
    git(tiny.tree, "commit", "-q", "-a", "-m", HOOK.replace("Hook it in", "Hook more"))
    tiny.run("export")
    tree = stopped(tiny)
    resolve(tree)
    git(tree, "add", "-A")
    if committed:  # killed after git's commit, before git wrote down that it is through
        script = tree / ".git/hooks/post-commit"
        script.parent.mkdir()
        script.write_text('#!/bin/sh\n[ "$(git log -1 --format=%s)" != "Hook more" ] || kill -KILL $PPID\n')
        script.chmod(0o755)
        settings = []
    else:  # killed while it merges
        (tree / ".git/info/attributes").write_text("* merge=killer\n")
        settings = ["-c", "merge.killer.driver=kill -KILL $PPID"]
    with pytest.raises(subprocess.CalledProcessError) as killed:
        git(tree, *settings, "rebase", "--continue", GIT_EDITOR="true")
    assert killed.value.returncode == -signal.SIGKILL
    (tree / ".git/index.lock").unlink(missing_ok=True)
    assert tiny.move("begin", to="v2")["patches"] == [
        {"file": "hook-it-in.patch", "outcome": "resolved"},
        {"file": "hook-more.patch", "outcome": "carried"},
    ]
    tiny.run("patch", pin="v2")
    assert tiny.run("check", pin="v2")["passed"]


def test_it_is_not_begun_over_another_rebase_nor_over_a_series_nor_to_an_unknown_tag(tiny: Tiny) -> None:
    tree = stopped(tiny)
    with pytest.raises(PatchConflictError, match="A rebase from v1 to v2 is under way") as caught:
        tiny.move("begin", to="v2", pin="v2")
    assert caught.value.next_command.startswith("invoke patch.rebase --to v2 --pin v1 ")
    shutil.rmtree(tree.parent)
    tiny.project.patches("v2").mkdir()
    with pytest.raises(ConfigurationError, match="patches/v2 exists already"):
        tiny.move("begin", to="v2")
    with pytest.raises(ConfigurationError, match=r"'v9' is not in release\.toml; there are: v2"):
        tiny.move("begin", to="v9")
    with pytest.raises(ConfigurationError, match="is where the series is already"):
        tiny.move("begin", to="v1")


def test_a_series_that_changed_meanwhile_voids_the_rebase(tiny: Tiny) -> None:
    tree = stopped(tiny)
    resolve(tree)
    git(tree, "add", "-A")
    (tiny.project.connector_source / "keys.py").write_text("A = 2\n")
    tiny.run("export")
    with pytest.raises(ConfigurationError, match="changed since its rebase"):
        tiny.move("begin", to="v2")


def test_a_damaged_series_is_not_carried(tiny: Tiny) -> None:
    tiny.release_upstream("v2", rewrite("line 2\n", "line two\n"))
    path = tiny.patches / "hook-it-in.patch"
    path.write_bytes(path.read_bytes().replace(b"+hook", b"+hack"))
    with pytest.raises(PinMismatchError):
        tiny.move("begin", to="v2")
    assert not rebase.place(tiny.project).exists()
