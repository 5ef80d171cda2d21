"""What is asked inside a container is asked by the numbers that its NPUs have there."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.deploying.inventories import NPU_IMAGE, shipped
from yrpd.deploying.planning.planner import Site, plan
from yrpd.deploying.preflight.host_survey import numbered_inside


def test_npus_count_from_0_inside_unless_the_container_sees_the_host() -> None:
    specs = plan(shipped("hosts.toml"), NPU_IMAGE, Site("/models/m", 2))
    engine = next(spec for spec in specs if spec.role == "prefill")
    given = replace(engine, devices=("/dev/davinci10", "/dev/davinci2", "/dev/davinci_manager"))
    assert numbered_inside([given]) == {"0": "2", "1": "10"}
    assert numbered_inside([replace(given, privileged=True)]) == {"2": "2", "10": "10"}
    assert numbered_inside([spec for spec in specs if spec.role == "worker"]) == {}
