"""Layers with their reasons, out of what an engine says of an image."""

from __future__ import annotations

import pytest

from yrpd.releasing.layers import explained

NOP = "/bin/sh -c #(nop) "
HISTORY = [
    {"Size": 0, "CreatedBy": f"{NOP}LABEL a=b"},
    {
        "Size": 677,
        "CreatedBy": "|1 VERSION=1 /bin/sh -c python3 /opt/yrpd/import_connector.py",
    },
    {"Size": 3_000_000, "CreatedBy": f"{NOP}COPY dir:abc in / "},
    {"Size": 143_000_000, "CreatedBy": "Debian bookworm: 121 packages"},
]


def test_every_layer_says_what_it_holds_and_what_changes_it() -> None:
    layers = explained(("low", "middle", "high"), HISTORY)
    assert [one.diff_id for one in layers] == ["low", "middle", "high"]
    assert [one.bytes for one in layers] == [143_000_000, 3_000_000, 677]
    assert layers[0].holds == "the Debian root"
    assert "series" in layers[1].changes_with
    assert "import test" in layers[2].holds


@pytest.mark.parametrize("kept", [True, False])
def test_a_step_that_left_nothing_is_a_layer_on_some_engines(kept: bool) -> None:
    history = [{"Size": 0, "CreatedBy": "/bin/sh -c true"}, *HISTORY[1:]]
    diff_ids = ("a", "b", "c", "d") if kept else ("a", "b", "c")
    layers = explained(diff_ids, history)
    assert [one.bytes for one in layers][:3] == [143_000_000, 3_000_000, 677]


def test_a_history_that_does_not_fit_is_not_guessed_at() -> None:
    assert [one.bytes for one in explained(("a",), HISTORY)] == [0]
