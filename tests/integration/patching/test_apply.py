"""``invoke patch``: what it makes, what it keeps, what it refuses."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.integration.patching.conftest import Tiny, git
from yrpd.documents.series import load_lock
from yrpd.errors import ConfigurationError, PatchConflictError, PinMismatchError
from yrpd.git.repository import Repository
from yrpd.project import Project


def test_the_tree_is_what_the_lock_names_and_the_state_is_recorded(tiny: Tiny) -> None:
    document = tiny.run("patch")
    lock = load_lock(tiny.patches)
    assert document["patches"] == ["add-the-connector.patch", "hook-it-in.patch"]
    assert (document["tree"], document["commit"]) == (lock.end.tree, lock.end.commit)
    assert git(tiny.tree, "rev-parse", "HEAD^{tree}") == lock.end.tree
    assert (tiny.tree / "vllm_ascend/distributed/yuanrong/transport/host.py").read_text() == "HOST = 1\n"
    assert "hook" in (tiny.tree / "vllm_ascend/distributed/__init__.py").read_text()
    assert (tiny.tree / "kept.log").exists()
    assert document["worktree"] == f"build/v1/trees/{lock.digest[:12]}"
    assert document["version"] == "1.0+yuanrong.1"


def test_a_second_run_does_nothing_and_says_why(tiny: Tiny) -> None:
    before = (tiny.tree / "setup.py").stat()
    document = tiny.run("patch")
    assert document["state"] == "unchanged"
    assert document["reasons"][0].startswith("UNCHANGED")
    assert (tiny.tree / "setup.py").stat() == before


def test_the_commit_id_is_the_same_every_time_and_whichever_way_the_pin_came(tiny: Tiny) -> None:
    first = tiny.run("patch")
    subprocess.run(["rm", "-r", str(tiny.project.build)], check=True)
    from_git = tiny.run("patch")
    subprocess.run(["rm", "-r", str(tiny.project.build)], check=True)
    tiny.upstream.rename(tiny.upstream.with_name("gone"))
    from_sdist = tiny.run("patch")
    assert first["commit"] == from_git["commit"] == from_sdist["commit"]


def test_a_changed_connector_is_named_as_the_reason(tiny: Tiny) -> None:
    (tiny.project.connector_source / "keys.py").write_text("A = 9\n")
    assert "connector_src/yuanrong/keys.py changed" in tiny.run("patch")["warnings"][0]
    tiny.run("export")
    document = tiny.run("patch")
    assert document["state"] == "applied"
    assert document["reasons"] == ["PATCH_CHANGED: add-the-connector.patch has other content"]
    assert document["warnings"] == []


def test_a_project_named_by_a_relative_path_is_the_same(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.project.root.parent)
    before = tiny.run("patch")
    subprocess.run(["rm", "-r", str(tiny.project.build)], check=True)
    near = Tiny(Project(Path(tiny.project.root.name)), tiny.upstream, tiny.links)
    assert near.run("patch")["commit"] == before["commit"]
    assert near.run("check")["passed"]
    assert near.run("export")["state"] == "unchanged"


def test_a_removed_tree_is_made_again_and_that_is_the_reason(tiny: Tiny) -> None:
    subprocess.run(["rm", "-r", str(tiny.tree)], check=True)
    assert tiny.run("patch")["reasons"][0].startswith("TREE_MISSING")


def test_going_back_to_an_earlier_series_uses_its_tree_again(tiny: Tiny) -> None:
    before, kept = tiny.tree, tiny.files()
    (tiny.project.connector_source / "keys.py").write_text("A = 9\n")
    tiny.run("export")
    tiny.run("patch")
    for name, content in kept.items():
        (tiny.patches / name).write_bytes(content)
    document = tiny.run("patch")
    assert tiny.tree == before
    assert any(reason.startswith("TREE_KEPT") for reason in document["reasons"])


@pytest.mark.parametrize("edit", ["change", "new file", "commit", "staged", "removed"])
def test_an_edited_tree_is_refused_and_stays_as_it_is(tiny: Tiny, edit: str) -> None:
    if edit in ("change", "staged", "commit"):
        (tiny.tree / "setup.py").write_text("mine\n")
    if edit == "new file":
        (tiny.tree / "mine.py").write_text("mine\n")
    if edit == "removed":
        (tiny.tree / "setup.py").unlink()
    if edit == "staged":
        git(tiny.tree, "add", "-A")
    if edit == "commit":
        git(tiny.tree, "commit", "-qam", "mine")
    with pytest.raises(PatchConflictError, match="was edited") as caught:
        tiny.run("patch")
    assert "invoke patch.export" in caught.value.next_command
    assert "invoke patch --discard" in caught.value.next_command
    document = tiny.run("patch", discard=True)
    assert document["reasons"][0].startswith("DISCARDED")
    assert git(tiny.tree, "status", "--porcelain") == ""
    assert (tiny.tree / "setup.py").read_text() == "print('setup')\n"


def test_edits_in_the_tree_of_an_older_series_are_refused_too(tiny: Tiny) -> None:
    edited = tiny.tree
    (edited / "setup.py").write_text("mine\n")
    (tiny.project.connector_source / "keys.py").write_text("A = 9\n")
    with pytest.raises(ConfigurationError, match="cannot be exported"):
        tiny.run("export")
    git(edited, "checkout", "-q", "setup.py")
    tiny.run("export")
    (edited / "setup.py").write_text("mine\n")
    with pytest.raises(PatchConflictError, match="was edited"):
        tiny.run("patch")
    assert (edited / "setup.py").read_text() == "mine\n"


def test_what_a_build_leaves_in_the_tree_is_no_edit(tiny: Tiny) -> None:
    (tiny.tree / "PKG-INFO").write_text("x")
    (tiny.tree / "made.egg-info").mkdir()
    (tiny.tree / "made.egg-info" / "top_level.txt").write_text("x")
    (tiny.tree / "build.log").write_text("x")
    assert tiny.run("patch")["state"] == "unchanged"


def test_a_dry_run_says_the_same_and_changes_nothing(tiny: Tiny) -> None:
    (tiny.project.connector_source / "keys.py").write_text("A = 9\n")
    tiny.run("export")
    before = sorted(tiny.project.build.rglob("*"))
    dry = tiny.run("patch", dry_run=True)
    assert sorted(tiny.project.build.rglob("*")) == before
    wet = tiny.run("patch")
    assert {**dry, "dry_run": False} == wet


def test_an_unknown_pin_is_a_configuration_error(tiny: Tiny) -> None:
    for verb in ("patch", "check", "export"):
        with pytest.raises(ConfigurationError, match="no pin 'v9'"):
            tiny.run(verb, pin="v9")


@pytest.mark.parametrize("where", [0, 40, 200, -2])
def test_a_flipped_byte_in_a_patch_is_a_mismatch_and_nothing_is_applied(tiny: Tiny, where: int) -> None:
    path = tiny.patches / "hook-it-in.patch"
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    subprocess.run(["rm", "-r", str(tiny.project.build / "v1" / "trees")], check=True)
    locked = load_lock(tiny.patches).patches[1].sha256
    with pytest.raises(PinMismatchError, match=f"hook-it-in.patch was changed: expected sha256 {locked}, found"):
        tiny.run("patch")
    assert not (tiny.project.build / "v1" / "trees").exists()


def test_a_lock_with_another_result_is_a_mismatch(tiny: Tiny) -> None:
    lock = tiny.patches / "lock.toml"
    end = load_lock(tiny.patches).end
    lock.write_text(lock.read_text().replace(f'commit = "{end.commit}"', f'commit = "{"0" * 40}"'))
    with pytest.raises(PinMismatchError, match=f"expected {'0' * 40}, found {end.commit}"):
        tiny.run("patch")


def test_another_pin_under_the_same_lock_is_a_mismatch(tiny: Tiny) -> None:
    tiny.edit_release(load_lock(tiny.patches).pin.commit or "?", "1" * 40)
    with pytest.raises(PinMismatchError, match=f"found {'1' * 40}"):
        tiny.run("patch")


def test_a_patch_that_does_not_apply_is_named_with_the_file(tiny: Tiny) -> None:
    path = tiny.patches / "hook-it-in.patch"
    path.write_bytes(path.read_bytes().replace(b" line 20", b" line XX"))
    (tiny.patches / "lock.toml").unlink()
    with pytest.raises(
        PatchConflictError, match=r"hook-it-in\.patch does not apply: patch failed: vllm_ascend/distributed/__init__.py"
    ):
        tiny.run("export")


def test_missing_series_and_lock_name_the_next_command(bare_tiny: Tiny) -> None:
    with pytest.raises(ConfigurationError, match="series does not exist") as caught:
        bare_tiny.run("patch")
    assert caught.value.next_command == "invoke patch.export --pin v1"


def test_a_killed_run_leaves_nothing_that_the_next_one_minds(tiny: Tiny, tmp_path: Path) -> None:
    trees = tiny.project.build / "v1" / "trees"
    subprocess.run(["rm", "-r", str(trees)], check=True)
    # This git stops where am would begin, so the kill meets the run in the middle for certain.
    started, script = tmp_path / "started", tmp_path / "git"
    real = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    script.write_text(f'#!/bin/sh\nif [ "$1" = am ]; then touch {started}; exec sleep 60; fi\nexec {real} "$@"\n')
    script.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from yrpd.patching import commands; from yrpd.project import Project;"
        "from yrpd.reporting import Reporter; commands.patch(Project(Path(sys.argv[1])), Reporter())"
    )
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tiny.project.root)], env=env, start_new_session=True, stdout=subprocess.DEVNULL
    ) as run:
        until = Retrying(retry=retry_if_result(operator.not_), stop=stop_after_delay(60), wait=wait_fixed(0.05))
        until(lambda: started.exists() or run.poll() is not None)
        assert started.exists()
        os.killpg(run.pid, signal.SIGKILL)
    assert [path.name for path in trees.iterdir() if path.name.startswith(".incoming-")]
    assert tiny.run("patch")["state"] == "applied"
    assert [path.name for path in trees.iterdir()] == [tiny.tree.name]


def test_a_damaged_source_repository_is_named_with_the_way_out(tiny: Tiny) -> None:
    subprocess.run(["rm", "-r", str(tiny.project.build / "v1" / "trees")], check=True)
    source = tiny.project.build / "v1" / "source.git"
    blob = Repository(source).blob_ids("refs/heads/base")["setup.py"]
    loose = source / "objects" / blob[:2] / blob[2:]
    assert loose.exists() or list((source / "objects" / "pack").glob("*.pack"))
    for victim in [loose] if loose.exists() else list((source / "objects" / "pack").glob("*.pack")):
        victim.chmod(0o644)
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 0xFF
        victim.write_bytes(content)
    with pytest.raises(PinMismatchError, match=r"source\.git") as caught:
        tiny.run("patch")
    assert caught.value.next_command.startswith("rm -r ")
    subprocess.run(["rm", "-r", str(source)], check=True)
    assert tiny.run("patch")["state"] == "applied"


def test_an_empty_series_is_the_pin_itself(bare_tiny: Tiny) -> None:
    bare_tiny.run("export")
    lock = load_lock(bare_tiny.patches)
    text = lock.model_copy(update={"patches": (), "end": lock.end.model_copy(
        update={"commit": lock.base.commit, "tree": lock.pin.tree})}).render()  # fmt: skip
    for path in bare_tiny.patches.iterdir():
        path.unlink()
    (bare_tiny.patches / "series").write_text("# nothing\n")
    (bare_tiny.patches / "lock.toml").write_text(text)
    document = bare_tiny.run("patch")
    assert document["tree"] == lock.pin.tree
    assert git(bare_tiny.tree, "rev-parse", "HEAD^{tree}") == lock.pin.tree
