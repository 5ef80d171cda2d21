"""What stands in the way: every kind has its id, its reason and its fix."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.deploying.preflight import findings
from yrpd.deploying.preflight.findings import Finding
from yrpd.errors import EnvironmentFailure


def test_a_model_that_differs_is_named_with_host_and_file() -> None:
    files: dict[str, dict[str, Any]] = {
        "one": {"config.json": [9, "a"], "w": [5, "b"]},
        "two": {"config.json": [9, "a"], "w": [5, "c"]},
        "three": {"config.json": [9, "a"], "w": [5, "b"]},
        "four": {"w": [5, "b"]},
    }
    found = list(findings.different_models("/m", files))
    assert [(each.id, each.host) for each in found] == [("model-differs", "two"), ("model-differs", "four")]
    assert "is not the model that one has: w;" in found[0].problem
    assert found[1].problem.startswith("/m is not the model that one has: config.json;")


@given(
    st.dictionaries(st.text(max_size=3), st.tuples(st.integers(), st.text(max_size=2)), max_size=5), st.integers(1, 6)
)
def test_equal_models_on_any_number_of_hosts_are_no_finding(files: dict[str, Any], hosts: int) -> None:
    assert not list(findings.different_models("/m", {f"h{n}": dict(files) for n in range(hosts)}))


def test_a_model_whose_index_names_missing_files_is_incomplete() -> None:
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "3.safetensors"}}
    files = {"1.safetensors": [7, "x"], "3.safetensors": [0, "y"], "README.md": [0, "z"]}
    found = list(findings.incomplete_model("one", "/m", files, json.dumps(index), "copy it"))
    assert [each.problem for each in found] == [
        "the model in /m lacks 2.safetensors",
        "the model in /m has nothing in 3.safetensors",
    ]
    assert not list(findings.incomplete_model("one", "/m", {"model.safetensors": [7, "x"]}, None, "copy it"))


@pytest.mark.parametrize(("clock", "says"), [(80.0, "20 s behind"), (130.0, "20 s ahead")])
def test_a_clock_outside_of_our_two_readings_is_found(clock: float, says: str) -> None:
    (found,) = findings.clock_findings("one", clock, 100.0, 110.0)
    assert found.id == "clock"
    assert says in found.problem


@given(st.floats(0, 1e9), st.floats(0, 600), st.floats(0, 1))
def test_a_clock_between_our_two_readings_is_no_finding(before: float, took: float, at: float) -> None:
    assert not list(findings.clock_findings("one", before + at * took, before, before + took))


def test_warnings_alone_do_not_keep_from_deploying_and_come_with_the_errors() -> None:
    warning = Finding("memory-in-use", "one", "it is full", "tidy up", "warning")
    findings.demand_nothing_in_the_way([warning])
    with pytest.raises(EnvironmentFailure) as caught:
        findings.demand_nothing_in_the_way([warning, Finding("disk", "two", "it is full", "tidy up")])
    assert caught.value.message == "two: it is full."
    assert caught.value.exit_code == 8
    assert "[memory-in-use] one: it is full; tidy up" in caught.value.detail
