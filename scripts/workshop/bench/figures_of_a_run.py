"""Figures of a run: what was measured, whether its goal is met, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from workshop.bench.statistics import Estimate

CONNECTOR = "Connector benchmark (median, 95 % bootstrap interval)"


@dataclass(frozen=True)
class Goal:
    """A bound that a figure has to keep."""

    bound: float
    at_least: bool

    def met(self, value: float) -> bool:
        """Tell whether a value keeps the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        """Return, for example, ``>= 0.9``."""
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """One result.

    Attributes:
        name: What was measured.
        dimension: What was varied: ``size`` or ``length``.
        point: Where on it, for example ``512 KiB`` or ``8192 tokens, block size 128``.
        estimate: The value with its interval.
        unit: ``ratio``, or a unit of time.
        goal: The bound, or None for a figure that only informs.
    """

    name: str
    dimension: str
    point: str
    estimate: Estimate
    unit: str = "ratio"
    goal: Goal | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        return None if self.goal is None else self.goal.met(self.estimate.value)

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            self.dimension: self.point,
            "value": _rounded(self.estimate.value),
            "low": _rounded(self.estimate.low),
            "high": _rounded(self.estimate.high),
            "unit": self.unit,
            "target": None if self.goal is None else str(self.goal),
            "met": self.met,
        }


def document(figures: Sequence[Figure], command: str, environment: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON document of a run."""
    return {"targets": [f.as_document() for f in figures], "command": command, "environment": environment}


def table(figures: Sequence[Figure], title: str = CONNECTOR) -> Table:
    """Return the run as a table for people."""
    shown = Table(title=title, box=SIMPLE_HEAD)
    for heading in ("figure", "at", "value", "interval", "goal"):
        right = heading in ("value", "interval")
        shown.add_column(heading, justify="right" if right else "left", no_wrap=heading != "figure")
    for figure in figures:
        value = figure.estimate
        unit = "" if figure.unit == "ratio" else f" {figure.unit}"
        verdict = {None: "", True: "met", False: "missed"}[figure.met]
        shown.add_row(
            figure.name,
            figure.point,
            f"{_short(value.value)}{unit}",
            f"{_short(value.low)} .. {_short(value.high)}",
            "" if figure.goal is None else f"{figure.goal} {verdict}",
            style="red" if figure.met is False else None,
        )
    return shown


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
