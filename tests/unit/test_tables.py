"""Tables in a pipe: 80 columns, and nothing of a cell is lost."""

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
from yrpd.tables import fitted

IMAGE = "registry.example/a-team/a-project/vllm-ascend-yuanrong:0.10.0rc1-yuanrong.1-cpu-" + "0123456789ab" * 4


def shown(table: Table, width: int = 80, *, terminal: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, markup=False, emoji=False
    )
    with console.capture() as captured:
        console.print(fitted(table, console), soft_wrap=False)
    return captured.get()


def without_layout(text: str) -> str:
    return re.sub(r"[\s│┃─━┏┓┗┛┡┩└┘┳┻╇┴┬├┤┼╺╸]", "", text)


def test_a_table_that_fits_keeps_its_columns() -> None:
    table = Table("host", "health")
    table.add_row("one", "healthy")
    heading, _, row = (line.split() for line in shown(table).splitlines() if line.strip())
    assert (heading, row) == (["host", "health"], ["one", "healthy"])


def test_a_sentence_wraps_in_its_cell_and_keeps_its_words() -> None:
    table = Table("container", "because")
    reason = "the image is another one than the one that this checkout would run, and so are three of its options"
    table.add_row("decode-0", reason)
    text = shown(table)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(re.search(rf"\b{word}\b", text) for word in re.findall(r"\w+", reason))


def test_rows_whose_words_do_not_fit_side_by_side_become_lists() -> None:
    table = Table("container", "image", "mount", title="plan")
    table.add_row("decode-0", "x" * 40, "y" * 40)
    lines = shown(table).splitlines()
    assert [line.split() for line in lines if line.strip()] == [
        ["plan"],
        ["decode-0"],
        ["image", "x" * 40],
        ["mount", "y" * 40],
    ]


def test_a_long_image_name_is_folded_and_not_cut() -> None:
    table = Table("container", "image", "health", title=IMAGE)
    table.add_row("prefill-0", IMAGE, "healthy")
    text = shown(table)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert without_layout(text).count(IMAGE) == 2
    assert "…" not in text


@pytest.mark.parametrize("length", [1, 90])
def test_brackets_and_colons_of_names_are_no_markup(length: int) -> None:
    table = Table("file", "image")
    table.add_row(Text("a[0].py"), "mirror:a:[bold]" + "z" * length)
    assert without_layout(shown(table)).endswith("a[0].py" + "image" * (length > 80) + "mirror:a:[bold]" + "z" * length)


@pytest.mark.parametrize("terminal", [True, False])
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(st.text("abc/.:-[]", min_size=1, max_size=90), min_size=4, max_size=4), min_size=1))
def test_no_character_of_any_cell_is_lost_in_80_columns(rows: list[list[str]], terminal: bool) -> None:
    table = Table("W", "X", "Y", "Z")
    for row in rows:
        table.add_row(*row)
    text = shown(table, terminal=terminal)
    assert all(len(line) <= 80 for line in text.splitlines())
    written = Counter(text)
    assert {letter: written[letter] for letter in "abc/.:-[]"} == {
        letter: sum(cell.count(letter) for row in rows for cell in row) for letter in "abc/.:-[]"
    }


def test_the_reporter_prints_tables_of_any_width_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table(*(f"column {number}" for number in range(9)))
    table.add_row(*(f"value-{number}-{'w' * 12}" for number in range(9)))
    Reporter().render(table)
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert all(f"value-{number}-{'w' * 12}" in printed for number in range(9))
