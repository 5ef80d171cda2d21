"""What a look from inside the containers finds, with the looks' results as data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.deploying.inventories import CPU_IMAGE, SITE, shipped
from yrpd.deploying.planning.planner import plan
from yrpd.deploying.preflight import host_survey
from yrpd.deploying.preflight.host_checks import inspect_inside
from yrpd.deploying.preflight.host_survey import Survey
from yrpd.deploying.preflight.situation import Situation
from yrpd.deploying.reconcile import Change

REPORT: dict[str, Any] = {"time": 0.0, "busy_ports": {}, "index": None, "disk_free": 1 << 40, "spill_free": None}


def test_a_host_that_starts_the_endpoint_alone_has_no_other_model(monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = shipped("lab.toml")
    changes = [
        Change("replace" if spec.role in ("endpoint", "decode") else "keep", spec.host, spec.name, "", spec)
        for spec in plan(inventory, CPU_IMAGE, SITE)
    ]
    idle = SimpleNamespace(containers=SimpleNamespace(list=lambda **_: []))
    files = {"host1": {".": [0, "ENOENT"]}, "host2": {".": [0, ""], "a.safetensors": [9, "digest"]}}
    surveys = [Survey(host, {**REPORT, "files": found}, 0.0, 0.0) for host, found in files.items()]
    monkeypatch.setattr(host_survey, "look_at_all", lambda *_: surveys)
    monkeypatch.setattr(host_survey, "try_ways", lambda *_: {})
    clients = cast("Any", dict.fromkeys(files, idle))
    situation = Situation(inventory, CPU_IMAGE, SITE.model_folder, changes, clients, cast("Any", None))
    assert [each for each in inspect_inside(situation, inventory.hosts) if each.id == "model-differs"] == []
