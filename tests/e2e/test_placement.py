"""Other numbers of P, D and hosts than the quickstart's: every answer equal to plain vLLM's, on each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.e2e.guards import guards
from tests.e2e.inventories import lab_inventory
from tests.e2e.running import Run, tail


@dataclass(frozen=True)
class Placement:
    """Hosts of every P, hosts of every D, the scheduler of all, and what starts the DataSystem.

    Guarded: with certificates and keys for the endpoint, P, D and the DataSystem, whose small pools spill to a disk.
    """

    prefill: tuple[str, ...]
    decode: tuple[str, ...]
    scheduler: str = "vllm"
    started_by: str = "dscli"
    guarded: bool = False


SMALL_POOL_MB = 64  # a worker begins to spill at 85 %; one verification saves 60 MiB
# A lab grows, so those with more hosts come later.
PLACED = {
    "2 P and 2 D": Placement(("host1",) * 2, ("host2",) * 2),
    "1 P and 3 D": Placement(("host1",), ("host2",) * 3),
    "1 P and 2 D on three hosts, guarded, AscendScheduler": Placement(
        ("host1",), ("host2", "host3"), "ascend", guarded=True
    ),
    "1 P and 2 D on three hosts, by `yr start`": Placement(("host1",), ("host2", "host3"), started_by="yr"),
    "2 P and 2 D on four hosts": Placement(("host1", "host3"), ("host2", "host4")),
}


def guarded(folder: Path) -> dict[str, dict[str, Any]]:
    tables = guards(folder)
    (folder / "spill").mkdir()
    spill = {"directory": str(folder / "spill"), "size_mb": 1024}
    return {**tables, "datasystem": {**tables["datasystem"], "memory_mb": SMALL_POOL_MB, "spill": spill}}


@pytest.fixture
def cleaned(quickstart: Run, invoke: Callable[..., Run]) -> None:
    """Hosts that run nothing."""
    assert quickstart.code == 0, tail(quickstart)
    before = invoke("deploy.clean")
    assert before.code == 0, tail(before)


@pytest.mark.usefixtures("cleaned")
@pytest.mark.parametrize("name", PLACED)
def test_text_and_pictures_are_answered_as_by_plain_vllm(invoke: Callable[..., Run], tmp_path: Path, name: str) -> None:
    placed = PLACED[name]
    hosts = str(
        lab_inventory(
            tmp_path / "hosts.toml",
            prefill=placed.prefill,
            decode=placed.decode,
            scheduler=placed.scheduler,
            tables=guarded(tmp_path) if placed.guarded else {"datasystem": {"started_by": placed.started_by}},
        )
    )
    # Hosts that the lab does not have yet are added to it; the others are kept.
    grown = invoke("lab.up", "--hosts", hosts)
    assert grown.code == 0, tail(grown)
    try:
        deployed = invoke("deploy", "--hosts", hosts, "--json")
        assert deployed.code == 0, tail(deployed)
        status = invoke("deploy.status", "--hosts", hosts, "--json").document
        assert len(status["cluster_nodes"]) == len({*placed.prefill, *placed.decode})
        if placed.started_by == "yr":
            master = docker.DockerClient(base_url="unix:///run/yrpd-lab/host1/docker.sock").containers.get(
                "yrpd-master"
            )
            assert master.exec_run(["yr", "health"]).exit_code == 0
        verified = invoke("deploy.verify", "--hosts", hosts, "--json")
        assert verified.code == 0, tail(verified)
        report = verified.document
        assert report["pictures"]
        assert report["hits"]["loaded_blocks"] > 0
        assert report["tiers"].keys() == set(placed.decode)
        assert all(report["tiers"].values())
        if placed.guarded:
            spilled = [each for each in (tmp_path / "spill").rglob("*") if each.is_file() and each.stat().st_size]
            assert spilled, "no block went to a disk"
            with_ca = requests.Session()
            with_ca.trust_env, with_ca.verify = False, str(tmp_path / "ca.pem")
            assert report["endpoint"].startswith("https://")
            assert with_ca.get(f"{report['endpoint']}/v1/models", timeout=30).status_code == 401
            assert requests.get("http://10.77.0.1:8100/v1/models", timeout=30).status_code == 401
    finally:
        assert invoke("deploy.clean", "--hosts", hosts).code == 0
