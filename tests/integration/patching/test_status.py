"""``invoke patch.status``: how all sides stand to each other, and the one command that comes next."""

from __future__ import annotations

from pathlib import Path

from tests.integration.patching.conftest import Tiny, git

HOOKED = "vllm_ascend/distributed/__init__.py"


def test_right_after_patch_nothing_comes_next(tiny: Tiny) -> None:
    document = tiny.run("status")
    assert (document["pin"], document["clean"], document["next"]) == ("v1", True, "")


def test_a_project_without_a_series_begins_with_export(bare_tiny: Tiny) -> None:
    document = bare_tiny.run("status")
    assert document["next"].startswith("invoke patch.export")


def test_a_series_that_was_never_applied_asks_for_patch(bare_tiny: Tiny) -> None:
    bare_tiny.run("export")
    assert bare_tiny.run("status")["next"] == "invoke patch --pin v1"


def test_edited_connector_sources_ask_for_an_export(tiny: Tiny) -> None:
    (tiny.project.connector_source / "keys.py").write_text("A = 2\n")
    document = tiny.run("status")
    assert document["next"].startswith("invoke patch.export")
    assert document["export"]["state"] == "exported"
    tiny.run("export")
    assert tiny.run("status")["next"] == "invoke patch --pin v1"
    tiny.run("patch")
    assert tiny.run("status")["clean"]


def test_edits_ask_for_a_commit_and_commits_for_an_export(tiny: Tiny) -> None:
    (tiny.tree / HOOKED).write_text("edited\n")
    document = tiny.run("status")
    assert " commit" in document["next"]
    git(tiny.tree, "commit", "-q", "-a", "-m", "More")
    assert tiny.run("status")["next"].startswith("invoke patch.export")


def test_a_damaged_patch_is_named_before_anything_is_exported_over_it(tiny: Tiny) -> None:
    path = tiny.patches / "hook-it-in.patch"
    path.write_bytes(path.read_bytes().replace(b"+hook", b"+hack"))
    (tiny.project.connector_source / "keys.py").write_text("A = 2\n")
    assert "hook-it-in.patch" in tiny.run("status")["next"]


def test_it_changes_nothing_and_needs_no_network(tiny: Tiny, tmp_path: Path) -> None:
    tiny.upstream.rename(tmp_path / "gone")
    tiny.links.rename(tmp_path / "away")

    skipped = {"index", ".patch.flock"}

    def seen() -> dict[Path, int]:
        # git may renew its cache of file times, the index; a command that looks holds the lock, too
        files = tiny.project.root.rglob("*")
        return {path: path.stat().st_mtime_ns for path in files if path.is_file() and path.name not in skipped}

    before = seen()
    tiny.run("status")
    assert seen() == before
