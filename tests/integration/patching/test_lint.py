"""``invoke patch.lint``: the rules, held against the files alone."""

from __future__ import annotations

import shutil

import pytest

from tests.integration.patching.conftest import Tiny
from yrpd.errors import PinMismatchError


def findings(tiny: Tiny) -> list[tuple[str, str, int]]:
    with pytest.raises(PinMismatchError) as caught:
        tiny.run("lint")
    document = caught.value.document
    assert document is not None
    assert not document["passed"]
    return [(finding["id"], finding["file"], finding["line"]) for finding in document["findings"]]


def test_a_good_series_passes_without_source_or_work_tree(tiny: Tiny) -> None:
    shutil.rmtree(tiny.project.build)
    document = tiny.run("lint")
    assert document["passed"]
    assert document["findings"] == []
    assert not tiny.project.build.exists()


def test_added_trailing_blanks_are_found_with_their_line(tiny: Tiny) -> None:
    path = tiny.patches / "hook-it-in.patch"
    content = path.read_bytes().replace(b"+hook\n", b"+hook  \n")
    path.write_bytes(content)
    line = content.split(b"\n").index(b"+hook  ") + 1
    assert ("whitespace", "patches/v1/hook-it-in.patch", line) in findings(tiny)


def test_a_missing_trailer_is_found(tiny: Tiny) -> None:
    path = tiny.patches / "hook-it-in.patch"
    path.write_bytes(path.read_bytes().replace(b"Removal: later\n", b""))
    assert "trailers" in {kind for kind, _, _ in findings(tiny)}


def test_a_patch_that_reaches_into_the_connector_package_is_found(tiny: Tiny) -> None:
    path = tiny.patches / "hook-it-in.patch"
    path.write_bytes(path.read_bytes().replace(b"distributed/__init__.py", b"distributed/yuanrong/x.py"))
    assert ("generated", "patches/v1/hook-it-in.patch") in {(kind, file) for kind, file, _ in findings(tiny)}


def test_the_generated_patch_must_come_first(tiny: Tiny) -> None:
    series = tiny.patches / "series"
    series.write_text("hook-it-in.patch\nadd-the-connector.patch\n")
    assert {"order", "generated"} <= {kind for kind, _, _ in findings(tiny)}


def test_a_pin_without_a_series_is_one_finding(bare_tiny: Tiny) -> None:
    assert findings(bare_tiny) == [("series", "patches/v1", 0)]
