"""An etcd and DataSystem workers of this machine, for benchmarks and tests: on free ports, gone with their block."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from yrpd.errors import EnvironmentFailure

_START_SECONDS = 60
_STOP_SECONDS = 20


class Daemon:
    """A program that listens at an address, and can be stopped, paused, killed and started again.

    Args:
        name: What an error calls it.
        address: ``host:port`` where it listens once it is ready.
        argv: Its command line.
        log: File that gets what it prints.
        ready: Further condition of readiness.
        environment: More environment variables.
        start_seconds: How long it may take to get ready.
    """

    def __init__(
        self,
        name: str,
        address: str,
        argv: Sequence[str],
        log: Path,
        ready: Callable[[], bool] = lambda: True,
        environment: Mapping[str, str] | None = None,
        start_seconds: float = _START_SECONDS,
    ) -> None:
        self.name = name
        self.address = address
        self._argv = list(argv)
        self._log = log
        self._ready = ready
        self._environment = dict(environment or {})
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            EnvironmentFailure: It ended, or did not get ready.
        """
        package = str(Path(__file__).resolve().parents[1])
        environment = {**os.environ, "PYTHONPATH": package, **self._environment}
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                self._argv, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=self._log.parent
            )
        self._process = process
        pending = retry_if_result(lambda answer: not answer)
        try:
            Retrying(retry=pending, stop=stop_after_delay(self._start_seconds), wait=wait_fixed(0.05))(
                lambda: process.poll() is not None or (self._ready() and _answers(self.address))
            )
        except RetryError:
            raise EnvironmentFailure(
                f"{self.name} did not get ready in {self._start_seconds} s.", detail=self._tail()
            ) from None
        if process.returncode is not None:
            raise EnvironmentFailure(f"{self.name} ended at start with code {process.returncode}.", detail=self._tail())

    def stop(self) -> None:
        """End it, also when it is paused: SIGTERM first, SIGKILL if it does not go."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it without giving it a chance to say so."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ensure(self) -> None:
        """Start it again if it has ended.

        Raises:
            EnvironmentFailure: It did not get ready.
        """
        if self._process is None or self._process.poll() is not None:
            self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it without ending it: what it holds stays, what it owes does not come."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def pause(self) -> None:
        """Begin what ``paused`` does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End what ``paused`` does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


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
    with etcd(home) as store, worker(home, store.address, memory_mb) as started:
        yield started.address


@contextmanager
def etcd(home: Path) -> Iterator[Daemon]:
    """Run etcd with its data and its log in a folder.

    Raises:
        EnvironmentFailure: It is not installed, or did not get ready.
    """
    binary = shutil.which("etcd")
    if binary is None:
        raise EnvironmentFailure("etcd is not on PATH.", next_command="apt-get install etcd-server")
    client, peer = (f"127.0.0.1:{port}" for port in free_ports(2))
    with running(Daemon("etcd", client, etcd_argv(binary, home, client, peer), home / "etcd.log")) as daemon:
        yield daemon


@contextmanager
def worker(
    home: Path,
    etcd_address: str,
    memory_mb: int,
    flags: Sequence[str] = (),
    start_seconds: float = _START_SECONDS,
) -> Iterator[Daemon]:
    """Run a DataSystem worker with its files and its log in a folder of its own.

    Args:
        home: The folder.
        etcd_address: ``host:port`` of etcd.
        memory_mb: Size of its memory pool.
        flags: More worker flags, ``name=value``.
        start_seconds: How long it may take to get ready.

    Raises:
        EnvironmentFailure: It did not get ready.
    """
    (port,) = free_ports(1)
    address, ready = f"127.0.0.1:{port}", home / "ready"
    argv = [*worker_argv(home, address, etcd_address, memory_mb, ready), *(f"--flag={flag}" for flag in flags)]
    log = home / "worker.log"
    with running(Daemon("the DataSystem worker", address, argv, log, ready.exists, None, start_seconds)) as daemon:
        yield daemon


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
def running(daemon: Daemon) -> Iterator[Daemon]:
    """Run a daemon until the block is left."""
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
