"""What a fault left behind when all is mended: containers, processes, volumes, requests, KV blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from workshop.lab import processes
from workshop.lab.layout import Lab
from yrpd.deploying.planning.deployment import Deployment
from yrpd.deploying.spec import ContainerSpec, HttpProbe
from yrpd.deploying.status.status import status_document
from yrpd.deploying.verifying.client import AskError, ask_plainly, get_text
from yrpd.deploying.verifying.questions import COMPLETIONS
from yrpd.docker.sdk import DockerClient

SETTLED_WITHIN_S = 120.0
INTERVAL_S = 1.0
REQUESTS = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_CONTAINER = re.compile(r"[0-9a-f]{64}")


def leftovers(deployment: Deployment, lab: Lab, clients: Mapping[str, DockerClient]) -> list[str]:
    """Return what is left behind, after waiting for what ends by itself; empty when all is as it should be."""
    found: list[str] = []
    model = deployment.inventory.model.served_name

    def look() -> bool:
        found[:] = [
            *_containers(deployment, clients),
            *_processes(lab, clients),
            *(text for spec in deployment.specs if spec.role in ("prefill", "decode") for text in _engine(spec, model)),
        ]
        return bool(found)

    with suppress(RetryError):
        Retrying(stop=stop_after_delay(SETTLED_WITHIN_S), wait=wait_fixed(INTERVAL_S), retry=retry_if_result(bool))(
            look
        )
    return found


def _containers(deployment: Deployment, clients: Mapping[str, DockerClient]) -> Iterator[str]:
    document = status_document(deployment, clients, {}, datetime.now(tz=UTC))
    for each in document["containers"]:
        if each["health"] != "healthy" or not each["release_matches"]:
            yield f"{each['name']} on {each['host']}: {', '.join(each['reasons']) or each['health']}"


def _processes(lab: Lab, clients: Mapping[str, DockerClient]) -> Iterator[str]:
    """Yield processes in the control group of a container that does not run."""
    running = {container.id for client in clients.values() for container in client.containers.list()}
    for process in processes.snapshot():
        for path in process.cgroups:
            container = _CONTAINER.search(path)
            if path.startswith(f"/{lab.cgroup}/") and container and container[0] not in running:
                yield f"process {process.pid}: {' '.join(process.argv)[:80]}"
                break


def _engine(spec: ContainerSpec, model: str) -> Iterator[str]:
    """Yield requests and KV blocks that a P or D still has."""
    if not isinstance(spec.probe, HttpProbe):
        return
    base = "/".join(spec.probe.url.split("/")[:3])
    try:
        # Figures are of the last step, so something short is asked first.
        ask_plainly(base, COMPLETIONS, {"model": model, "prompt": "tick", "max_tokens": 1})
        text = get_text(base, "/metrics")
    except AskError as error:
        yield f"{spec.name} on {spec.host} does not tell what it has: {error}"
        return
    yield from (f"{spec.name} on {spec.host}: {problem}" for problem in unfinished(text))


def unfinished(metrics: str) -> list[str]:
    """Return what a vLLM's metrics say that is not finished."""
    samples = [each for family in text_string_to_metric_families(metrics) for each in family.samples]
    problems = [f"{each.name} is {each.value:g}" for each in samples if each.name in REQUESTS and each.value]
    blocks = [int(each.labels["num_gpu_blocks"]) for each in samples if each.name == "vllm:cache_config_info"]
    # vLLM 0.10.0 counts the null block, which belongs to nobody, as used.
    allowed = 1.001 / blocks[0] if blocks else 0.0
    usage = [each.value for each in samples if each.name == "vllm:kv_cache_usage_perc"]
    return problems + [f"{value:.2%} of its KV blocks are in use" for value in usage if value > allowed]
