"""``invoke patch.status``: which side is ahead, and the one command that comes next."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.patching.conftest import Tiny, git

HOOKED = "vllm_ascend/distributed/__init__.py"


def states(document: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {side["name"]: side["state"] for side in document["sides"]}


def test_right_after_patch_everything_is_in_step_and_nothing_comes_next(tiny: Tiny) -> None:
    document = tiny.run("status")
    assert (document["pin"], document["state"], document["next"]) == ("v1", "in step", "")
    assert states(document) == dict.fromkeys(("pin", "series", "connector_src", "work tree"), "same")


def test_a_project_without_a_series_begins_with_export(bare_tiny: Tiny) -> None:
    document = bare_tiny.run("status")
    assert (document["state"], document["next"]) == ("series missing", "invoke patch.export --pin v1")


def test_a_series_that_was_never_applied_asks_for_patch(bare_tiny: Tiny) -> None:
    bare_tiny.run("export")
    document = bare_tiny.run("status")
    assert (document["state"], document["next"]) == ("work tree behind", "invoke patch --pin v1")


def test_edited_connector_sources_ask_for_an_export(tiny: Tiny) -> None:
    (tiny.project.connector_source / "keys.py").write_text("A = 2\n")
    document = tiny.run("status")
    assert document["state"] == "connector_src ahead"
    assert document["next"].startswith("invoke patch.export")
    assert "keys.py" in document["sides"][2]["why"]


def test_an_edited_message_of_the_generated_patch_asks_for_an_export(tiny: Tiny) -> None:
    path = tiny.project.patches("connector-message.txt")
    path.write_text(path.read_text().replace("Body.", "Another body."))
    assert tiny.run("status")["state"] == "connector_src ahead"


def test_edits_ask_for_a_commit_and_commits_for_an_export(tiny: Tiny) -> None:
    (tiny.tree / HOOKED).write_text("edited\n")
    document = tiny.run("status")
    assert document["state"] == "work tree uncommitted"
    assert " commit" in document["next"]
    git(tiny.tree, "commit", "-q", "-a", "-m", "More")
    document = tiny.run("status")
    assert document["state"] == "work tree ahead"
    assert "1 commit more" in document["sides"][3]["why"]
    assert document["next"].startswith("invoke patch.export")


def test_commits_on_a_series_that_changed_meanwhile_have_diverged(tiny: Tiny) -> None:
    (tiny.tree / HOOKED).write_text("edited\n")
    git(tiny.tree, "commit", "-q", "-a", "-m", "More")
    aside = tiny.project.build.rename(tiny.project.root / "aside")
    series = tiny.patches / "series"
    series.write_text(series.read_text().replace("hook-it-in.patch\n", ""))
    (tiny.patches / "hook-it-in.patch").unlink()
    tiny.run("export")  # without the work tree, as on a colleague's machine
    shutil.rmtree(tiny.project.build)
    aside.rename(tiny.project.build)
    document = tiny.run("status")
    assert states(document)["work tree"] == "diverged"
    assert "--discard" in document["next"]


def test_after_an_export_the_work_tree_is_behind(tiny: Tiny) -> None:
    (tiny.project.connector_source / "keys.py").write_text("A = 2\n")
    tiny.run("export")
    document = tiny.run("status")
    assert (document["state"], document["next"]) == ("work tree behind", "invoke patch --pin v1")
    tiny.run("patch")
    assert tiny.run("status")["state"] == "in step"


@pytest.mark.parametrize("old", ["tree = ", "commit = "])
def test_a_pin_that_the_lock_does_not_have_comes_before_everything_else(tiny: Tiny, old: str) -> None:
    text = tiny.project.release_file.read_text()
    position = text.index(old) + len(old) + 1
    tiny.project.release_file.write_text(text[:position] + "00000000" + text[position + 8 :])
    (tiny.project.connector_source / "keys.py").write_text("A = 2\n")
    document = tiny.run("status")
    assert (document["state"], document["next"]) == ("pin diverged", "git diff release.toml patches")


def test_a_damaged_patch_is_named_before_anything_is_exported_over_it(tiny: Tiny) -> None:
    path = tiny.patches / "hook-it-in.patch"
    path.write_bytes(path.read_bytes().replace(b"+hook", b"+hack"))
    (tiny.project.connector_source / "keys.py").write_text("A = 2\n")
    document = tiny.run("status")
    assert document["state"] == "series broken"
    assert "hook-it-in.patch" in document["next"]


def test_it_changes_nothing_and_needs_no_network(tiny: Tiny, tmp_path: Path) -> None:
    tiny.upstream.rename(tmp_path / "gone")
    tiny.links.rename(tmp_path / "away")

    def seen() -> dict[Path, int]:
        files = tiny.project.root.rglob("*")  # git may renew its cache of file times, the index
        return {path: path.stat().st_mtime_ns for path in files if path.is_file() and path.name != "index"}

    before = seen()
    tiny.run("status")
    tiny.run("lint")
    assert seen() == before
