"""Goals, the table and the JSON document."""

from __future__ import annotations

import io
import json

from rich.console import Console

from workshop.bench.figures_of_a_run import Figure, Goal, document, table
from workshop.bench.statistics import Estimate

FAST = Goal(0.9, at_least=True)
SOON = Goal(50, at_least=False)


def figure(value: float, goal: Goal | None, unit: str = "ratio") -> Figure:
    return Figure("load", "size", "7 MiB", Estimate(value, value - 0.1, value + 0.1), unit, goal)


def test_a_goal_is_a_bound_from_below_or_from_above_and_includes_its_edge() -> None:
    assert figure(0.9, FAST).met is True
    assert figure(0.8999, FAST).met is False
    assert figure(50, SOON, "ms").met is True
    assert figure(50.1, SOON, "ms").met is False
    assert figure(1, None).met is None
    assert (str(FAST), str(SOON)) == (">= 0.9", "<= 50")


def test_the_document_says_what_was_measured_where_and_with_which_command() -> None:
    key = Figure("keys", "length", "1024 tokens", Estimate(1.23456, 1, 2), "ms")
    made = document([figure(0.5, FAST), key], "the command", {"cpus": 2})
    assert json.loads(json.dumps(made)) == made
    assert (made["command"], made["environment"]) == ("the command", {"cpus": 2})
    load, keys = made["targets"]
    assert load == {
        "name": "load", "size": "7 MiB", "value": 0.5, "low": 0.4, "high": 0.6, "unit": "ratio",
        "target": ">= 0.9", "met": False,
    }  # fmt: skip
    assert (keys["length"], keys["value"], keys["target"], keys["met"]) == ("1024 tokens", 1.235, None, None)


def test_the_table_shows_a_missed_goal_in_words() -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(table([figure(0.5, FAST), figure(0.95, FAST), figure(1234.5, None, "us")]))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("missed") == 1
    assert text.count(" met") == 1
    assert "1234 us" in text
