"""``invoke patch.check``: each sabotage is found, with file and line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.patching.conftest import Tiny
from yrpd.documents.series import load_lock
from yrpd.errors import PinMismatchError

HOOK_PATH = "patches/v1/hook-it-in.patch"


def _findings(tiny: Tiny) -> list[dict[str, Any]]:
    with pytest.raises(PinMismatchError) as caught:
        tiny.run("check")
    document = caught.value.document
    assert document is not None
    assert document["passed"] is False
    findings: list[dict[str, Any]] = document["findings"]
    assert findings
    assert all(set(finding) >= {"id", "file", "line", "message"} for finding in findings)
    return findings


def _relock(tiny: Tiny, name: str) -> None:
    """Make the lock agree with a patch's bytes, as a careful forger would."""
    lock = load_lock(tiny.patches)
    digest = hashlib.sha256((tiny.patches / name).read_bytes()).hexdigest()
    entries = tuple(e if e.file != name else e.model_copy(update={"sha256": digest}) for e in lock.patches)
    (tiny.patches / "lock.toml").write_text(lock.model_copy(update={"patches": entries}).render())


def _edit(tiny: Tiny, change: Callable[[bytes], bytes]) -> int:
    """Edit the hook patch; return the first line that changed."""
    path = tiny.patches / "hook-it-in.patch"
    old = path.read_bytes()
    new = change(old)
    assert old != new
    path.write_bytes(new)
    pairs = zip(old.split(b"\n"), new.split(b"\n"), strict=False)
    return next(number for number, (a, b) in enumerate(pairs, start=1) if a != b)


def test_a_series_as_exported_passes(tiny: Tiny) -> None:
    document = tiny.run("check")
    assert (document["passed"], document["findings"]) == (True, [])


def test_it_needs_no_network_once_the_pin_was_fetched(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.upstream.rename(tiny.upstream.with_name("gone"))
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert tiny.run("check")["passed"]


def test_a_flipped_byte_is_found_with_patch_and_file(tiny: Tiny) -> None:
    _edit(tiny, lambda content: content.replace(b"+hook", b"+hoom"))
    found = {finding["id"]: finding for finding in _findings(tiny)}
    assert found["sha256"]["file"] == HOOK_PATH
    assert f"git diff {HOOK_PATH}" in found["sha256"]["next"]
    text = (tiny.patches / "hook-it-in.patch").read_bytes().split(b"\n")
    assert found["round-trip"]["file"] == HOOK_PATH
    assert text[found["round-trip"]["line"] - 1].startswith(b"index ")


def test_a_hand_edit_is_found_even_when_the_lock_was_forged(tiny: Tiny) -> None:
    _edit(tiny, lambda content: content.replace(b"+hook", b"+hand"))
    _relock(tiny, "hook-it-in.patch")
    found = {finding["id"]: finding for finding in _findings(tiny)}
    text = (tiny.patches / "hook-it-in.patch").read_bytes().split(b"\n")
    assert text[found["round-trip"]["line"] - 1].startswith(b"index ")
    assert "tree" in found


def test_a_declared_pre_image_that_is_not_the_pins_is_found(tiny: Tiny) -> None:
    old = (tiny.patches / "hook-it-in.patch").read_bytes().split(b"index ")[1][:40]
    _edit(tiny, lambda content: content.replace(b"index " + old, b"index " + b"5" * 40))
    _relock(tiny, "hook-it-in.patch")
    assert "round-trip" in {finding["id"] for finding in _findings(tiny)}


def test_a_patch_that_no_longer_fits_is_named(tiny: Tiny) -> None:
    _edit(tiny, lambda content: content.replace(b" line 20", b" line XX"))
    found = [finding for finding in _findings(tiny) if finding["id"] == "apply"]
    assert found[0]["file"] == HOOK_PATH
    assert "vllm_ascend/distributed/__init__.py" in found[0]["message"]


def test_a_changed_connector_is_found_with_file_and_line(tiny: Tiny) -> None:
    (tiny.project.connector_source / "keys.py").write_text("A = 1\nB = 9\nC = 3\n")
    found = [finding for finding in _findings(tiny) if finding["id"] == "drift"]
    assert [(finding["file"], finding["line"]) for finding in found] == [("connector_src/yuanrong/keys.py", 2)]
    assert found[0]["next"] == "invoke patch.export"


def test_added_and_removed_connector_files_are_found(tiny: Tiny) -> None:
    (tiny.project.connector_source / "keys.py").unlink()
    (tiny.project.connector_source / "new.py").write_text("")
    files = [finding["file"] for finding in _findings(tiny) if finding["id"] == "drift"]
    assert files == ["connector_src/yuanrong/keys.py", "connector_src/yuanrong/new.py"]


def test_a_changed_mode_or_message_of_the_generated_patch_is_found(tiny: Tiny) -> None:
    path = tiny.project.root / "patches" / "connector-message.txt"
    path.write_text(path.read_text().replace("Body.", "Another body."))
    assert [finding["id"] for finding in _findings(tiny)] == ["generated"]
    path.write_text(path.read_text().replace("Another body.", "Body."))
    (tiny.project.connector_source / "keys.py").chmod(0o755)
    assert [finding["id"] for finding in _findings(tiny)] == ["generated"]


def test_an_unlisted_file_is_found(tiny: Tiny) -> None:
    (tiny.patches / "stray.patch").write_text("x")
    found = _findings(tiny)
    assert [(finding["id"], finding["file"]) for finding in found] == [("unlisted", "patches/v1/stray.patch")]


def test_a_missing_file_is_found_at_its_line_of_the_series(tiny: Tiny) -> None:
    (tiny.patches / "hook-it-in.patch").unlink()
    found = {finding["id"]: finding for finding in _findings(tiny)}
    assert (found["missing"]["file"], found["missing"]["line"]) == ("patches/v1/series", 3)


def test_a_patch_listed_twice_is_found_at_its_line(tiny: Tiny) -> None:
    with (tiny.patches / "series").open("a") as stream:
        stream.write("hook-it-in.patch\n")
    found = {finding["id"]: finding for finding in _findings(tiny)}
    assert (found["listed-twice"]["line"], found["listed-twice"]["file"]) == (4, "patches/v1/series")


def test_another_order_is_found(tiny: Tiny) -> None:
    (tiny.patches / "series").write_text("hook-it-in.patch\nadd-the-connector.patch\n")
    assert "order" in {finding["id"] for finding in _findings(tiny)}


@pytest.mark.parametrize("key", ["Why", "Upstream", "Removal"])
def test_a_message_without_a_trailer_is_found(tiny: Tiny, key: str) -> None:
    _edit(tiny, lambda content: content.replace(f"{key}:".encode(), b"And:"))
    _relock(tiny, "hook-it-in.patch")
    found = {finding["id"]: finding for finding in _findings(tiny)}
    assert f"lacks {key}:" in found["trailers"]["message"]


def test_a_line_of_dashes_in_a_message_is_found_with_its_line(tiny: Tiny) -> None:
    line = _edit(tiny, lambda content: content.replace(b"Body with", b"---\nBody with"))
    _relock(tiny, "hook-it-in.patch")
    found = {finding["id"]: finding for finding in _findings(tiny)}
    assert found["message-cut"]["line"] == line


def test_added_whitespace_errors_are_found_with_their_line(tiny: Tiny) -> None:
    line = _edit(tiny, lambda content: content.replace(b"+hook\n", b"+hook  \n"))
    _relock(tiny, "hook-it-in.patch")
    found = {finding["id"]: finding for finding in _findings(tiny)}
    assert (found["whitespace"]["line"], found["whitespace"]["message"]) == (line, "trailing whitespace")


def test_another_pin_than_the_locks_is_found(tiny: Tiny) -> None:
    commit = load_lock(tiny.patches).pin.commit or ""
    assert commit
    lock = tiny.patches / "lock.toml"
    lock.write_text(lock.read_text().replace(commit, "6" * 40))
    assert "pin" in {finding["id"] for finding in _findings(tiny)}


def test_a_missing_or_broken_lock_is_a_finding_beside_the_others(tiny: Tiny) -> None:
    (tiny.patches / "stray.patch").write_text("x")
    (tiny.patches / "lock.toml").write_text("format = 'x'")
    assert {finding["id"] for finding in _findings(tiny)} == {"lock", "unlisted"}


def test_a_patch_that_reaches_into_the_connector_package_is_found(tiny: Tiny) -> None:
    _edit(tiny, lambda content: content.replace(b"distributed/__init__.py", b"distributed/yuanrong/x.py"))
    assert ("generated", HOOK_PATH) in {(finding["id"], finding["file"]) for finding in _findings(tiny)}


def test_the_generated_patch_must_come_first(tiny: Tiny) -> None:
    (tiny.patches / "series").write_text("hook-it-in.patch\nadd-the-connector.patch\n")
    found = [finding for finding in _findings(tiny) if finding["id"] == "generated"]
    assert [finding["file"] for finding in found] == ["patches/v1/series"]


def test_a_pin_without_a_series_is_one_finding(bare_tiny: Tiny) -> None:
    assert [(finding["id"], finding["file"]) for finding in _findings(bare_tiny)] == [("series", "patches/v1")]


def test_two_patches_in_one_file_are_found(tiny: Tiny) -> None:
    _edit(tiny, lambda content: content + content)
    assert "format" in {finding["id"] for finding in _findings(tiny)}


def test_checking_changes_nothing(tiny: Tiny) -> None:
    before = tiny.files()
    _edit(tiny, lambda content: content.replace(b"+hook", b"+hoom"))
    edited = tiny.files()
    _findings(tiny)
    assert tiny.files() == edited != before
    assert not [path for path in (tiny.project.build / "v1").iterdir() if path.name.startswith(".incoming-")]
