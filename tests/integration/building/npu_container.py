"""A container of the npu image with the emulated NPU mounted in: etcd, a DataSystem worker and ``vllm serve`` in it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tests.emulated_npu import cann
from yrpd.deploying.status.counters import read_counters
from yrpd.serving.command_lines import (
    WORKER_READY,
    KvTransfer,
    VllmServe,
    datasystem_worker,
    etcd,
    vllm_serve,
)

SITE = Path(__file__).parents[2] / "emulated_npu" / "site"
ETCD, PEER, WORKER, VLLM = 2379, 2380, 31501, 8100
METRICS = "/tmp/metrics"
START_SECONDS = 300
# The container has no network but its own loopback, so what is asked is asked from inside.
ASK = """
import sys, urllib.request
path, body = sys.argv[1:]
url = f"http://127.0.0.1:8100{path}"
headers = {"Content-Type": "application/json"}
asked = urllib.request.Request(url, body.encode() if body else None, headers)
print(urllib.request.urlopen(asked, timeout=300).read().decode())
"""


class Served:
    """The container."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def ask(self, path: str, body: dict[str, Any] | None = None) -> str:
        """GET a path, or POST a body to it; returns the answer's text."""
        code, output = self._container.exec_run(
            ["python3", "-c", ASK, path, "" if body is None else json.dumps(body)], environment={"PYTHONPATH": ""}
        )
        text = bytes(output).decode("utf-8", "replace")
        assert code == 0, text + self._log("vllm")
        return text

    def counters(self) -> dict[str, float]:
        """Return the connector's counters."""
        return read_counters(self.ask("/metrics"))

    def start(self, name: str, argv: Sequence[str], ready: Sequence[str]) -> None:
        """Start a program in the container, and wait until a command says that it is ready."""
        line = f"exec {shlex.join(argv)} > /tmp/{name}.log 2>&1"
        self._container.exec_run(["sh", "-c", line], detach=True)
        waiting = Retrying(
            retry=retry_if_result(lambda code: code != 0), stop=stop_after_delay(START_SECONDS), wait=wait_fixed(0.5),
            retry_error_callback=lambda _: 1,
        )  # fmt: skip
        code = waiting(lambda: int(self._container.exec_run(list(ready), environment={"PYTHONPATH": ""}).exit_code))
        assert code == 0, f"{name} did not get ready:\n{self._log(name)}"

    def _log(self, name: str) -> str:
        return bytes(self._container.exec_run(["tail", "-n", "60", f"/tmp/{name}.log"]).output).decode()


@contextmanager
def serving(client: docker.DockerClient, image: str, library: Path, libraries: Path, model: Path) -> Iterator[Served]:
    """Serve a model out of an image.

    Args:
        client: The engine.
        image: The npu image.
        library: The emulated device, compiled for the image's torch.
        libraries: The folder of the CANN stand-ins.
        model: The model's folder.
    """
    mounts = {
        SITE: "/emulated/site",
        library: "/emulated/device.so",
        libraries: "/emulated/cann",
        model: "/models/model",
    }
    environment = {
        "PYTHONPATH": "/emulated/site:/opt/yrpd:/opt/yuanrong",
        "EMULATED_NPU_LIBRARY": "/emulated/device.so",
        "EMULATED_NPU_MEMORY_MB": "512",
        **cann.variables(Path("/emulated/cann"), ""),
        "PROMETHEUS_MULTIPROC_DIR": METRICS,
        "VLLM_VERSION": "0.10.0",  # the stand-in's vLLM calls itself 0.10.0.post2
        "VLLM_USE_V1": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    serve = VllmServe(
        "/models/model", "model", "127.0.0.1", VLLM, "float32", 1024, 128, 1, cpu=False,
        options=(("enforce-eager", ""), ("max-num-seqs", "4"), ("gpu-memory-utilization", "0.5")),
    )  # fmt: skip
    transfer = KvTransfer(
        "kv_both", f"127.0.0.1:{WORKER}", "", "vllm", by_module=False,
        settings=(("save_mode", "sync-last"), ("reset_forgets", False)),
    )  # fmt: skip
    container = client.containers.run(
        image, ["sh", "-c", f"mkdir {METRICS} && exec sleep infinity"], detach=True, network_mode="none", init=True,
        environment=environment, volumes={str(path): {"bind": to, "mode": "ro"} for path, to in mounts.items()},
    )  # fmt: skip
    try:
        served = Served(container)
        knock = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1)"
        served.start("etcd", etcd("etcd", "127.0.0.1", ETCD, PEER), ["python3", "-c", knock, str(ETCD)])
        worker = datasystem_worker(f"127.0.0.1:{WORKER}", f"127.0.0.1:{ETCD}", 64)
        served.start("worker", worker, ["test", "-e", WORKER_READY])
        served.start("vllm", vllm_serve(serve, transfer), ["python3", "-c", ASK, "/health", ""])
        yield served
    finally:
        container.remove(force=True)
