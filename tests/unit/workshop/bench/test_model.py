from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workshop.bench.bound import Prefill, Work, break_even_bandwidth, expected_ttft, fit, ideal_cut, ideal_gain

QWEN_BYTES = 57_344
rates = st.floats(0, 0.95)


def test_the_ideal_of_the_tutorials_figure_is_the_one_worked_out_by_hand() -> None:
    assert [round(ideal_gain(a, b), 2) for a, b in _FIGURE] == [1.28, 1.46, 1.48, 1.60]
    assert [round(100 * ideal_cut(a, b), 1) for a, b in _FIGURE] == [22.0, 31.5, 32.2, 37.5]


def test_break_even_of_qwen_7b_is_five_gigabits_a_second() -> None:
    assert break_even_bandwidth(QWEN_BYTES, 11_600) * 8 / 1e9 == pytest.approx(5.3, abs=0.05)


@given(rates, st.integers(100, 10000))
def test_with_endless_bandwidth_and_no_fixed_cost_the_linear_model_is_the_ideal(rate: float, prompt: int) -> None:
    prefill = Prefill(0.0, 1e-4)
    saved = 1 - expected_ttft(prefill, prompt, rate, QWEN_BYTES, math.inf) / prefill.seconds(prompt)
    assert saved == pytest.approx(ideal_cut(0, rate), abs=1e-9)


@given(rates, rates, st.floats(1e6, 1e12))
def test_at_break_even_a_hit_is_worth_nothing_and_above_it_more_hits_are_less_time(
    one: float, other: float, bandwidth: float
) -> None:
    prefill = Prefill(0.01, 1e-4)
    even = break_even_bandwidth(QWEN_BYTES, 1e4)
    assert expected_ttft(prefill, 1000, one, QWEN_BYTES, even) == pytest.approx(prefill.seconds(1000))
    low, high = sorted((one, other))
    slow, fast = (expected_ttft(prefill, 1000, rate, QWEN_BYTES, bandwidth) for rate in (low, high))
    assert (fast <= slow + 1e-9) == (bandwidth >= even) or slow == pytest.approx(fast)


@given(st.floats(0.001, 0.1), st.floats(1e-5, 1e-3), st.floats(1e-9, 1e-7))
def test_a_fit_finds_the_costs_that_made_the_points(fixed: float, per_token: float, per_pair: float) -> None:
    made = Prefill(fixed, per_token, per_pair)
    found = fit([(Work.mean(length, 0, 0), made.seconds(length)) for length in (512, 1024, 2048, 4096, 8192)])
    for length in (700, 3000, 8000):
        assert found.seconds(length) == pytest.approx(made.seconds(length), rel=1e-3)


@given(st.integers(1, 9000), st.floats(0, 1), st.integers(0, 50), st.integers(1, 50))
def test_mean_work_is_that_of_the_prompts_one_by_one(prompt: int, share: float, finding: int, others: int) -> None:
    found, count = prompt * share, finding + others
    prefill = Prefill(0.01, 1e-4, 1e-7)
    each = (finding * prefill.seconds(prompt, found) + others * prefill.seconds(prompt)) / count
    mean = Work.mean(prompt, finding * found / (count * prompt), found)
    assert prefill.cost(mean) == pytest.approx(each)


def test_a_fit_of_one_length_is_a_rate_alone() -> None:
    assert fit([(Work.mean(1000, 0, 0), 2.0)] * 2) == Prefill(0.0, pytest.approx(0.002), 0.0)  # type: ignore[arg-type]


_FIGURE = ((0.285, 0.442), (0.165, 0.428), (0.085, 0.380), (0.056, 0.410))
