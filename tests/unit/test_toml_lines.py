"""Lines of fields."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.deploying.inventories import GOOD
from yrpd.toml_lines import line_of


def leaves(value: Any, path: tuple[int | str, ...] = ()) -> Iterator[tuple[int | str, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path


def test_every_field_of_an_inventory_is_found_on_the_line_that_writes_it() -> None:
    for path in leaves(tomllib.loads(GOOD)):
        line = line_of(GOOD, path)
        assert line is not None
        text = GOOD.splitlines()[line - 1]
        assert text.startswith((str(path[-1]), "options", "environment")), (path, text)


def test_a_missing_field_is_on_the_line_of_its_table() -> None:
    assert GOOD.splitlines()[(line_of(GOOD, ("hosts", 1, "nothing")) or 0) - 1] == "[[hosts]]"
    assert line_of(GOOD, ("hosts", 1, "nothing")) == 9
    assert line_of(GOOD, ("nothing",)) is None


def test_a_quoted_name_with_dots_is_one_name() -> None:
    text = '[pins."v0.10.0rc1"]\nrepository = "r"\ntag = "t"\n'
    assert line_of(text, ("pins", "v0.10.0rc1", "tag")) == 3


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    line_of(text, ("hosts", 0, "name"))
