"""Intervals of few resamples: what is drawn, sorted and written is the same, in a hundredth of the time."""

import pytest

from workshop.bench import statistics
from workshop.bench.reporting import intervals


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    monkeypatch.setattr(statistics, "RESAMPLES", 100)
