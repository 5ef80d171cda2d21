"""Tables: nothing of a cell is lost, whatever the width, and a row is one line where there is no terminal."""

from __future__ import annotations

import io
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yrpd.reporting import Reporter


def shown(table: Table, width: int) -> str:
    """Return what a terminal of that width shows."""
    reporter = Reporter()
    reporter.console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system=None, markup=False, emoji=False
    )
    with reporter.console.capture() as captured:
        reporter.render(table)
    return captured.get()


def test_a_sentence_wraps_in_its_cell_and_keeps_its_words() -> None:
    table = Table("container", "because")
    reason = "the image is another one than the one that this checkout would run, and so are three of its options"
    table.add_row("decode-0", reason)
    text = shown(table, 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(re.search(rf"\b{word}\b", text) for word in re.findall(r"\w+", reason))


def test_brackets_and_colons_of_names_are_no_markup() -> None:
    table = Table("file", "image")
    table.add_row(Text("a[0].py"), "mirror:a:[bold]")
    assert "a[0].py │ mirror:a:[bold]" in shown(table, 80)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(st.text("abc/.:-[]", min_size=1, max_size=90), min_size=4, max_size=4), min_size=1))
def test_no_character_of_any_cell_is_lost_in_80_columns(rows: list[list[str]]) -> None:
    table = Table("W", "X", "Y", "Z")
    for row in rows:
        table.add_row(*row)
    text = shown(table, 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    written = Counter(text)
    assert {letter: written[letter] for letter in "abc/.:-[]"} == {
        letter: sum(cell.count(letter) for row in rows for cell in row) for letter in "abc/.:-[]"
    }


def test_without_a_terminal_a_row_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table(*(f"column {number}" for number in range(9)))
    cells = [f"value-{number}-{'w' * 12}" for number in range(9)]
    table.add_row(*cells)
    Reporter().render(table)
    assert [line.split() for line in capsys.readouterr().out.splitlines() if "value" in line] == [cells]
