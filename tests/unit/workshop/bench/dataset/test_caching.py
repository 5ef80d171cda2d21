from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workshop.bench.dataset.caching import blocks_of, expect
from workshop.bench.dataset.commands import Wanted, make_shape
from workshop.bench.dataset.shapes import Document, Grouped, MultiTurn, Repeated, Shape
from yrpd.errors import ConfigurationError


def shapes() -> st.SearchStrategy[Shape]:
    few, length = st.integers(1, 5), st.integers(1, 70)
    return st.one_of(
        st.builds(Grouped, few, few, length, length, st.text(max_size=3)),
        st.builds(Document, few, few, length, length),
        st.builds(MultiTurn, few, few, length, length),
        st.builds(Repeated, few, few, length),
    )


@given(shapes(), st.integers(1, 16))
def test_two_prompts_share_a_block_exactly_when_they_share_all_tokens_up_to_its_end(shape: Shape, size: int) -> None:
    requests = [shape.request(n) for n in range(shape.count)]
    spelled = [[(s.name, n) for s in request.segments for n in range(s.tokens)] for request in requests]
    named = [list(blocks_of(request, size)) for request in requests]
    for a in range(len(requests)):
        assert len(named[a]) == len(spelled[a]) // size
        for b in range(a):
            for n, (one, other) in enumerate(zip(named[a], named[b], strict=False)):
                end = (n + 1) * size
                assert (one == other) == (spelled[a][:end] == spelled[b][:end])


@given(shapes(), st.integers(1, 16), st.integers(1, 4))
def test_an_endless_device_cache_reaches_the_ceiling_and_leaves_nothing_to_the_datasystem(
    shape: Shape, size: int, output: int
) -> None:
    found = expect(shape, shape.count * (shape.longest + output + size), size, output)
    assert found.device == found.ceiling
    assert found.store == 0


@given(shapes(), st.integers(1, 16), st.integers(0, 6))
def test_device_and_datasystem_together_reach_the_ceiling_with_any_device_cache(
    shape: Shape, size: int, spare: int
) -> None:
    found = expect(shape, -(-shape.longest // size) + spare, size, 1)
    assert found.device + found.store == found.ceiling <= found.tokens
    assert found.blocks <= found.tokens // size


def test_the_figures_shape_has_a_ceiling_of_45_percent_and_the_tutorials_of_24_75() -> None:
    for name, ceiling in (("grouped", 0.45), ("tutorial", 0.2475)):
        assert expect(make_shape(Wanted(shape=name, length=1024)), 2000, 128, 2).ceiling_rate == pytest.approx(ceiling)


def test_one_device_cache_explains_the_baseline_of_the_tutorials_figure_at_every_length() -> None:
    """The figure's hit rates without a DataSystem, with its cache as the one free parameter."""
    for length, rate in ((1024, 0.285), (2048, 0.165), (4096, 0.085), (8192, 0.056)):
        found = expect(make_shape(Wanted(length=length)), 265_000 // 128, 128, 2)
        assert found.device_rate == pytest.approx(rate, abs=0.015)


def test_documents_in_turn_defeat_a_device_cache_that_holds_all_but_one() -> None:
    shape = Document(documents=4, questions=5, document=90, question=10)
    assert expect(shape, 3 * 10, 10, 1).device == 0
    assert expect(shape, 3 * 10, 10, 1).total_rate == pytest.approx(0.9 * 4 / 5)
    assert expect(shape, 5 * 10, 10, 1).device_rate == pytest.approx(0.9 * 4 / 5)


def test_a_whole_prompt_is_never_found_whole() -> None:
    found = expect(Repeated(prompts=1, passes=2, length=64), 10, 16, 1)
    assert found.ceiling == 48


def test_a_request_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs 8 blocks"):
        expect(Repeated(1, 1, 128), 7, 16, 1)
