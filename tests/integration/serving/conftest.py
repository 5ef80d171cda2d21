"""vllm-router and Envoy as the image has them, from the same lock, as processes of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.integration.serving.engines import Engine, running
from workshop.router import provide_router
from yrpd.building.runtime import Locks
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.serving import command_lines
from yrpd.serving.envoy import Settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with ``vllm-router`` and ``envoy``, installed from the image's lock."""
    project, folder = Project.here(), tmp_path_factory.mktemp("router")
    locks = Locks.of(project, "runtime-cpu")
    provide_router(project, locks, folder / "venv", folder / "install.log", Reporter())
    return folder / "venv" / "bin"


@dataclass(frozen=True)
class Front:
    """A running endpoint, and the engines behind it."""

    url: str
    metrics: str
    prefill: tuple[Engine, ...]
    decode: tuple[Engine, ...]

    def counter(self, name: str, cluster: str) -> float:
        """Return one of Envoy's counters of a cluster; what was never counted is 0."""
        for line in requests.get(f"{self.metrics}/metrics", timeout=30).text.splitlines():
            if line.startswith(f'{name}{{envoy_cluster_name="{cluster}"}}'):
                return float(line.rpartition(" ")[2])
        return 0.0


@pytest.fixture
def make_front(programs: Path, tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """Start engines, router and endpoint; all end with the test."""
    with ExitStack() as stack:

        def make(
            prefill: int = 2, decode: int = 1, *, alone: bool = False, scheme: str = "http", **told: object
        ) -> Front:
            engines = {
                role: tuple(stack.enter_context(running(Engine(f"{role}{number}"))) for number in range(count))
                for role, count in (("p", prefill), ("d", decode))
            }
            router, router_metrics, port, metrics = free_ports(4)
            urls = {role: [f"http://{each.authority}" for each in group] for role, group in engines.items()}
            line = command_lines.router(
                "127.0.0.1", router, "127.0.0.1", router_metrics, urls["p"], urls["d"], {"policy": "round_robin"}, 1
            )
            folder = tmp_path / "endpoint"
            folder.mkdir()
            settings = Settings("127.0.0.1", port, metrics, f"127.0.0.1:{router}", tries=4, folder=str(folder))
            settings = replace(settings, decode=tuple(each.authority for each in engines["d"]) if alone else ())
            settings = replace(settings, **told)  # type: ignore[arg-type]
            for name, argv in (("router", line), ("endpoint", command_lines.endpoint(settings))):
                stack.callback(end, start(programs, argv, tmp_path / f"{name}.log"))
            front = Front(f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{metrics}", engines["p"], engines["d"])
            wait_until_ready(front)
            return front

        yield make


def start(programs: Path, argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    program = sys.executable if argv[0] == "python3" else shutil.which(argv[0], path=str(programs))
    assert program is not None
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "scripts"),
    }
    with log.open("wb") as output:
        return subprocess.Popen([program, *argv[1:]], stdout=output, stderr=output, env=environment)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@retry(
    retry=retry_if_exception_type((AssertionError, requests.RequestException)),
    stop=stop_after_delay(60),
    wait=wait_fixed(0.2),
    reraise=True,
)
def wait_until_ready(front: Front) -> None:
    assert requests.get(f"{front.metrics}/readiness", timeout=5).status_code == 200
