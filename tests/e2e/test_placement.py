"""Other numbers of P, D and hosts than the quickstart's: every answer equal to plain vLLM's, on each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.e2e.guards import guards
from tests.e2e.inventories import lab_inventory
from tests.e2e.running import Run, tail
from yrpd.deploying.status.counters import read_counters
from yrpd.deploying.verifying.answers import compare
from yrpd.deploying.verifying.client import Server, ask, get_text
from yrpd.deploying.verifying.questions import COMPLETIONS, Question, prose


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


PREFILL = "http://10.77.0.1:8100"
MODEL = "qwen2_5_vl"
SPILLED = 80  # prompts of some 900 tokens
# Twice what verification allows: there are two rounded answers here, and neither is the reference.
TOLERANCE = 3e-4
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


class Guarded:
    """The servers of a guarded deployment, for a client that has its keys.

    Args:
        endpoint: The endpoint's URL.
        folder: What :func:`guards` has written.
    """

    def __init__(self, endpoint: str, folder: Path) -> None:
        keys = {name: (folder / name).read_text(encoding="ascii").split()[0] for name in ("clients", "engines")}
        self.endpoint = Server(endpoint, keys["clients"], str(folder / "ca.pem"))
        self.prefill = Server(PREFILL, keys["engines"])


def blocks_are_read_back_from_disk(servers: Guarded, hosts: str, invoke: Callable[..., Run]) -> None:
    """P saves more than the pool holds; then D asks for all of it, and answers as before."""
    text = "".join(prose(16))
    body = {"prompt": text, "max_tokens": 8, "temperature": 0, "logprobs": 5, "return_tokens_as_token_ids": True}
    question = Question("spilled", COMPLETIONS, body)
    fresh = ask(servers.endpoint, MODEL, question, "fresh")
    salts = [f"spilled {number}" for number in range(SPILLED)]
    before = from_disk(hosts, invoke)
    saved = read_counters(get_text(servers.prefill, "/metrics"))["saved_bytes"]
    for salt in salts:
        ask(servers.prefill, MODEL, question, salt)
    assert read_counters(get_text(servers.prefill, "/metrics"))["saved_bytes"] - saved > 2 * SMALL_POOL_MB * 2**20
    for salt in salts:
        found = compare(ask(servers.endpoint, MODEL, question, salt), fresh, TOLERANCE, ties=False)
        assert found.equal, found.problem

    @retry(retry=retry_if_exception_type(AssertionError), stop=stop_after_delay(60), wait=wait_fixed(2), reraise=True)
    def the_workers_say_so() -> None:
        assert from_disk(hosts, invoke) > before

    the_workers_say_so()


def from_disk(hosts: str, invoke: Callable[..., Run]) -> float:
    """Return how many blocks the workers' disks gave."""
    status = invoke("deploy.status", "--hosts", hosts, "--json").document
    return float(sum((each.get("tiers") or {}).get("disk", {}).get("reads", 0.0) for each in status["containers"]))


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
            assert requests.get(f"{PREFILL}/v1/models", timeout=30).status_code == 401
            blocks_are_read_back_from_disk(Guarded(report["endpoint"], tmp_path), hosts, invoke)
    finally:
        assert invoke("deploy.clean", "--hosts", hosts).code == 0
