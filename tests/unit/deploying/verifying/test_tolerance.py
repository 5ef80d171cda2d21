"""The tolerance is what its text says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.deploying.verifying.tolerance import (
    UNIT_ROUNDOFF,
    Shape,
    logprob_tolerance,
    roundings,
    shape_of,
    ties_allowed,
)

TINY = Shape(layers=4, hidden=256, intermediate=512, head=64)
SEVEN_B = Shape(layers=28, hidden=3584, intermediate=18944, head=128)


def test_roundings_are_counted_as_the_text_says() -> None:
    assert roundings(TINY, "bfloat16", 3000) == 4 * 16 + 4
    assert roundings(TINY, "float32", 3000) == 4 * (16 + 3 * 256 + 512 + 64 + 3000) + 4 + 256


def test_the_formula_is_four_sigma_of_a_random_walk() -> None:
    assert logprob_tolerance(TINY, "bfloat16", 10, 5.0) == pytest.approx(4 * math.sqrt(68) * 2**-8 * 5)


def test_unit_roundoffs_are_half_the_distance_to_the_next_number() -> None:
    assert 1.0 + UNIT_ROUNDOFF["float32"] * 2 == 1.00000011920928955078125
    assert UNIT_ROUNDOFF["float16"] == 2**-11
    assert UNIT_ROUNDOFF["bfloat16"] == 2**-8


def test_float32_is_strict_and_bfloat16_is_not() -> None:
    assert logprob_tolerance(TINY, "float32", 3008, 10.0) < 1e-3
    assert 0.05 < logprob_tolerance(SEVEN_B, "bfloat16", 3008, 1.0) < 0.5
    assert not ties_allowed("float32")
    assert ties_allowed("bfloat16")
    assert ties_allowed("float16")


@given(st.sampled_from(sorted(UNIT_ROUNDOFF)), st.integers(1, 100_000), st.floats(0, 100))
def test_it_grows_with_context_and_scale_and_never_vanishes(dtype: str, tokens: int, scale: float) -> None:
    base = logprob_tolerance(TINY, dtype, tokens, scale)
    assert base >= logprob_tolerance(TINY, dtype, 1, 0.0) > 0
    assert logprob_tolerance(TINY, dtype, tokens + 1, scale + 1) > base or dtype != "float32"


def test_sizes_are_read_from_flat_and_nested_configurations() -> None:
    flat = {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
    assert shape_of(flat) == shape_of({"text_config": flat, "vision_config": {}}) == TINY
    assert shape_of({**flat, "head_dim": 128}).head == 128
    with pytest.raises(KeyError):
        shape_of({"hidden_size": 1})
