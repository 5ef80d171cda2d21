"""An etcd and a DataSystem worker of the benchmark's own, on free ports, gone when it ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from yrpd.errors import EnvironmentFailure

_START_SECONDS = 60
_STOP_SECONDS = 20


@contextmanager
def datasystem(home: Path, memory_mb: int) -> Iterator[str]:
    """Run etcd and one DataSystem worker.

    Args:
        home: Empty folder for their files and logs.
        memory_mb: Size of the worker's memory pool.

    Yields:
        The worker's address, ``host:port``.

    Raises:
        EnvironmentFailure: etcd is not installed, or one of them did not get ready.
    """
    binary = shutil.which("etcd")
    if binary is None:
        raise EnvironmentFailure("etcd is not on PATH.", next_command="apt-get install etcd-server")
    client, peer, worker = (f"127.0.0.1:{port}" for port in free_ports(3))
    with ExitStack() as stack:
        store = stack.enter_context(_process(etcd_argv(binary, home, client, peer), home / "etcd.log"))
        _await(lambda: _answers(client), store, "etcd", home / "etcd.log")
        ready = home / "ready"
        process = stack.enter_context(
            _process(worker_argv(home, worker, client, memory_mb, ready), home / "worker.log")
        )
        _await(lambda: ready.exists() and _answers(worker), process, "the DataSystem worker", home / "worker.log")
        yield worker


def etcd_argv(binary: str, home: Path, client: str, peer: str) -> list[str]:
    """Return etcd's command line."""
    return [
        binary,
        f"--data-dir={home / 'etcd'}",
        f"--listen-client-urls=http://{client}",
        f"--advertise-client-urls=http://{client}",
        f"--listen-peer-urls=http://{peer}",
        f"--initial-advertise-peer-urls=http://{peer}",
        f"--initial-cluster=default=http://{peer}",
    ]


def worker_argv(home: Path, address: str, etcd: str, memory_mb: int, ready: Path) -> list[str]:
    """Return the worker's command line."""
    return [
        sys.executable,
        "-m",
        "yrpd.serving.worker",
        f"--home={home}",
        f"--worker-address={address}",
        f"--etcd-address={etcd}",
        f"--memory-mb={memory_mb}",
        f"--flag=ready_check_path={ready}",
    ]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, all different."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(server.getsockname()[1]) for server in servers]


@contextmanager
def _process(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block is left; SIGTERM first, SIGKILL if it does not go."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=log.parent)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(ready: Callable[[], bool], process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    ended = retry_if_result(lambda answer: not answer)
    try:
        Retrying(retry=ended, stop=stop_after_delay(_START_SECONDS), wait=wait_fixed(0.05))(
            lambda: process.poll() is not None or ready()
        )
    except RetryError:
        raise EnvironmentFailure(f"{name} did not get ready in {_START_SECONDS} s.", detail=_tail(log)) from None
    if process.returncode is not None:
        raise EnvironmentFailure(f"{name} ended at start with code {process.returncode}.", detail=_tail(log))


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
