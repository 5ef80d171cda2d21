"""``[connector]`` takes what the connector takes, and refuses with the inventory what it would refuse at its start."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from yuanrong.config import ConfigError, ConnectorConfig

from yrpd.deploying.inventory import Connector
from yrpd.deploying.inventory.reserved import RESERVED_OPTIONS

ROOT = Path(__file__).parents[4]
#: What the deployment says itself, or what no deployment of P and D can have otherwise.
NOT_TO_TUNE = {
    "role": "P produces, D consumes",
    "worker_address": "the worker of the same host",
    "credentials": "[datasystem.encryption]",
    "transport": "follows from the flavour",
    "load": "a D that does not load does nothing",
    "metrics": "verification reads the counters",
    "worker_resource_log": "a folder of the container",
    "model_id": "tag separates as well",
}


def test_every_setting_of_the_connector_can_be_tuned_or_has_a_reason() -> None:
    known = {field.name for field in fields(ConnectorConfig)}
    assert set(Connector.model_fields) == known - NOT_TO_TUNE.keys()


def accepted(name: str, value: Any) -> tuple[bool, bool]:
    """Tell whether the inventory takes a value, and whether the connector does."""
    try:
        given = dict(Connector.model_validate({name: value}).settings())
    except ValidationError:
        given = {name: value}
        ours = False
    else:
        ours = True
    try:
        ConnectorConfig.from_extra({"worker_address": "10.0.0.1:31501", **given}, "kv_both", {})
    except ConfigError:
        return ours, False
    return ours, True


@pytest.mark.parametrize("name", list(Connector.model_fields))
def test_no_value_passes_here_that_the_connector_refuses(name: str) -> None:
    values = [-1, 0, 1, 10_000, True, "", "async", "full", "crc32", "a b", "x" * 129]
    found = {str(value): accepted(name, value) for value in values}
    assert any(ours for ours, _ in found.values())
    assert not {value for value, (ours, theirs) in found.items() if ours and not theirs}


def test_options_that_the_connector_refuses_are_refused_with_the_inventory() -> None:
    text = (ROOT / "connector_src/yuanrong/connector.py").read_text(encoding="utf-8")
    check = text.partition("def check_engine(")[2].partition("\ndef ")[0]
    named = set(re.findall(r"--([a-z][a-z-]+)", check))
    assert {"async-scheduling", "calculate-kv-scales"} <= named
    assert named <= RESERVED_OPTIONS.keys()
