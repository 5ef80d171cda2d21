"""Conflict markers as data."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from yrpd.patching.conflicts import kind, regions

LINES = st.lists(st.sampled_from(["a", "b", "", "=====", "<<<", "x = 1"]), max_size=6)


def marked(ours: list[str], base: list[str], theirs: list[str]) -> list[str]:
    return ["<<<<<<< HEAD", *ours, "||||||| base", *base, "=======", *theirs, ">>>>>>> patch"]


def test_each_side_is_told_against_what_the_patch_was_made_on() -> None:
    text = "\n".join(["top", *marked(["new"], ["old", "kept"], ["old", "hook", "kept"]), "end"])
    [region] = regions(text)
    assert (region.first, region.last) == (2, 11)
    assert region.upstream == ("-old", "-kept", "+new")
    assert region.patch == ("+hook",)


def test_a_text_without_markers_has_no_conflicts_even_with_an_underlined_heading() -> None:
    assert regions("Heading\n=======\ntext\n") == ()


@given(st.lists(st.tuples(LINES, LINES, LINES, LINES), max_size=4))
def test_every_conflict_is_found_where_it_is(parts: list[tuple[list[str], list[str], list[str], list[str]]]) -> None:
    lines: list[str] = []
    expected = []
    for before, ours, base, theirs in parts:
        lines += before
        first = len(lines) + 1
        lines += marked(ours, base, theirs)
        expected.append((first, len(lines)))
    found = regions("\n".join(lines))
    assert [(region.first, region.last) for region in found] == expected
    for region, (_, ours, base, theirs) in zip(found, parts, strict=True):
        assert bool(region.upstream) == (ours != base)
        assert bool(region.patch) == (theirs != base)


def test_index_stages_tell_the_kind() -> None:
    kinds = [kind(frozenset(stages)) for stages in ((1, 2, 3), (2, 3), (1, 3), (1, 2))]
    assert kinds == ["content", "added by both", "removed upstream", "removed by the patch"]
