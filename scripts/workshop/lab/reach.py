"""Proof that the hosts of a lab reach each other, by TCP, each under its own address."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import TypeVar

from workshop.lab.layout import Lab
from yrpd.errors import EnvironmentFailure

T = TypeVar("T")
TIMEOUT_S = 10.0
CLONE_NEWNET = 0x40000000  # setns(2); os.setns exists from Python 3.12 on


def inside(namespace: Path | None, function: Callable[[], T]) -> T:
    """Call a function inside a network namespace; sockets that it makes stay there.

    A thread enters the namespace and ends with the call, so the rest of this process never leaves its own.

    Args:
        namespace: Where the namespace is held open; ``None`` for the machine's own.
        function: What to call.
    """

    def entered() -> T:
        if namespace is not None:
            handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), str(namespace))
            finally:
                os.close(handle)
        return function()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(entered).result()


def prove_reach(lab: Lab) -> list[str]:
    """Connect from every host, and from the machine, to every host.

    Returns:
        One line for each connection made.

    Raises:
        EnvironmentFailure: A connection failed, or did not come from the caller's own address.
    """
    members: list[tuple[str, str, Path | None]] = [
        (host.name, str(host.address), lab.namespace_file(host.name)) for host in lab.hosts
    ]
    members.append(("machine", str(lab.machine_address), None))
    lines = []
    for (caller, caller_address, caller_file), (name, address, file) in permutations(members, 2):
        try:
            seen = _connect(caller_file, file, address)
        except OSError as error:
            raise EnvironmentFailure(
                f"{caller} ({caller_address}) does not reach {name} ({address}): {error}.",
                next_command="invoke lab.down",
            ) from error
        if seen != caller_address:
            raise EnvironmentFailure(
                f"{caller} reaches {name} as {seen}, not as {caller_address}.", next_command="invoke lab.down"
            )
        lines.append(f"{caller} {caller_address} -> {name} {address}")
    return lines


def _connect(caller: Path | None, listener: Path | None, address: str) -> str:
    with inside(listener, lambda: socket.create_server((address, 0))) as server:
        server.settimeout(TIMEOUT_S)
        port = server.getsockname()[1]
        with inside(caller, lambda: socket.create_connection((address, port), timeout=TIMEOUT_S)):
            accepted, peer = server.accept()
            accepted.close()
            return str(peer[0])
