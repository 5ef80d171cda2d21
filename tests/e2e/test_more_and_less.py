"""One P more, and one less: nothing else restarts, and no request fails meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker

from tests.e2e.inventories import lab_inventory
from tests.e2e.running import ROOT, Run, tail
from workshop.faults.commands import site_of
from workshop.faults.stream import Stream
from yrpd.project import Project
from yrpd.reporting import Reporter

ANSWERS, WITHIN_S = 6, 300.0


def containers() -> dict[str, str]:
    """Return each container's id and when it was started."""
    found = {}
    for host in ("host1", "host2"):
        client = docker.DockerClient(base_url=f"unix:///run/yrpd-lab/{host}/docker.sock")
        for each in client.containers.list(filters={"label": "io.yuanrong.yrpd.deployment=yrpd"}):
            found[f"{host}/{each.name}"] = f"{each.id} {each.attrs['State']['StartedAt']}"
        client.close()
    return found


def test_a_p_comes_and_goes_while_clients_are_answered(
    report: dict[str, Any], invoke: Callable[..., Run], tmp_path: Path
) -> None:
    assert report["passed"]
    before = containers()
    more = lab_inventory(tmp_path / "more.toml", prefill=("host1", "host1"))
    with site_of(Project.here(), Reporter(), ROOT / "lab.toml", "cpu") as (_, known), Stream(known) as stream:
        assert stream.wait_for(ANSWERS, stream.now(), WITHIN_S)
        grown = invoke("deploy", "--hosts", str(more))
        assert grown.code == 0, tail(grown)
        now = containers()
        assert now.keys() - before.keys() == {"host1/yrpd-prefill-1"}
        assert {name: now[name] for name in before} == before
        assert stream.wait_for(ANSWERS, stream.now(), WITHIN_S)
        again = invoke("deploy")
        assert again.code == 0, tail(again)
        assert containers() == before
        assert stream.wait_for(ANSWERS, stream.now(), WITHIN_S)
    assert {each.verdict for each in stream.sent()} == {"right"}, [each.problem for each in stream.sent()]
