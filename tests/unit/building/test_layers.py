"""Layers: what makes an image another image, and how that is said."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from yrpd.building.layers import Layer, explain, tag_version

inputs = st.dictionaries(st.sampled_from(["base", "pin", "tree", "context"]), st.text(max_size=8), max_size=4)


def _layer(values: dict[str, str]) -> Layer:
    return Layer("cpu", "name", "1.0-cpu-", values, {"org.opencontainers.image.title": "t"})


@given(inputs, inputs)
def test_two_layers_have_one_tag_exactly_when_their_inputs_are_equal(one: dict[str, str], two: dict[str, str]) -> None:
    assert (_layer(one).image == _layer(two).image) == (one == two)


@given(inputs, inputs)
def test_every_changed_input_is_a_reason_and_no_other_is(one: dict[str, str], two: dict[str, str]) -> None:
    changed = {name for name in set(one) | set(two) if one.get(name) != two.get(name)}
    reasons = explain(one, two)
    if changed:
        assert [reason.split(" changed: ")[0] for reason in reasons] == sorted(changed)
    else:
        assert reasons == ["the inputs are the same, but the engine does not have the image"]


def test_the_first_image_has_a_reason_too() -> None:
    assert explain(None, {"a": "b"}) == ["no image was made from this checkout before"]


def test_long_digests_are_shown_short() -> None:
    assert explain({"tree": "a" * 40}, {"tree": "b" * 40}) == ["tree changed: aaaaaaaaaaaa -> bbbbbbbbbbbb"]


def test_labels_carry_the_inputs_and_their_digest() -> None:
    layer = _layer({"base": "x"})
    labels = layer.all_labels
    assert json.loads(labels["yrpd.inputs"]) == {"base": "x"}
    assert labels["yrpd.inputs-digest"] == layer.digest
    assert labels["yrpd.layer"] == "cpu"
    assert labels["org.opencontainers.image.title"] == "t"


def test_a_version_with_a_local_part_makes_a_legal_tag() -> None:
    assert tag_version("0.10.0rc1+yuanrong.1") == "0.10.0rc1-yuanrong.1"
    assert re.fullmatch(r"[\w][\w.-]{0,127}", _layer({}).tag)
