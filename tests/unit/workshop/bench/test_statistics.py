"""Interleaving and ratios."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workshop.bench.statistics import alternation, estimate, measure, paired_difference, paired_ratio

SAMPLES = st.lists(st.floats(0.001, 1000), min_size=1, max_size=30)


def test_arms_run_a_b_b_a() -> None:
    assert alternation(["a", "b"], 3) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_a_steady_drift_favours_no_arm() -> None:
    clock = iter(range(1000))
    taken = measure({name: lambda _: float(next(clock)) for name in "abc"}, rounds=10, warm_up=2)
    assert sum(taken["a"]) == sum(taken["b"]) == sum(taken["c"])


def test_warm_up_rounds_are_run_and_do_not_count() -> None:
    seen: list[int] = []

    def arm(number: int) -> float:
        seen.append(number)
        return float(number)

    assert measure({"a": arm}, rounds=3, warm_up=2) == {"a": [2.0, 3.0, 4.0]}
    assert seen == [0, 1, 2, 3, 4]


@given(SAMPLES)
def test_the_interval_holds_the_median_and_lies_within_the_samples(samples: list[float]) -> None:
    found = estimate(samples)
    assert min(samples) <= found.low <= found.value <= found.high <= max(samples)
    assert estimate(samples) == found, "the same samples give the same interval"


@given(SAMPLES, st.sampled_from([0.5, 1.0, 4.0]))
def test_a_machine_that_slows_down_for_both_arms_does_not_change_their_ratio(drift: list[float], factor: float) -> None:
    found = paired_ratio([d * factor for d in drift], drift)
    assert (found.low, found.value, found.high) == (factor, factor, factor)


def test_differences_are_taken_round_by_round() -> None:
    assert paired_difference([3.0, 30.0, 300.0], [1.0, 28.0, 298.0]).value == 2.0
    assert paired_difference([3.0], [1.0]).scaled(10).high == 20.0


@pytest.mark.parametrize("compare", [paired_ratio, paired_difference])
def test_arms_of_unequal_length_are_an_error(compare: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no samples"):
        compare([], [])
