"""Whether a port is free, and who holds it when it is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
CONNECT_TIMEOUT_S = 2.0


def answers(address: str, port: int) -> bool:
    """Return whether something accepts connections there."""
    try:
        socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def holder(address: str, port: int) -> str:
    """Return who listens on a port of this machine, in any of its network namespaces, such as ``nginx (pid 12)``.

    Returns:
        Empty when nobody of this machine does, or this user may not see it.
    """
    wanted = {(_hexadecimal(address), port), (_hexadecimal("0.0.0.0"), port)}  # noqa: S104  (compared, not bound)
    sockets = {inode for sample in _one_process_per_namespace() for inode in _listening(sample, wanted)}
    if not sockets:
        return ""
    for process in _processes():
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    target = os.readlink(descriptor)
                    if target.startswith("socket:[") and target[8:-1] in sockets:
                        return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""


def _processes() -> Iterator[Path]:
    return (entry for entry in PROC.iterdir() if entry.name.isdigit())


def _one_process_per_namespace() -> Iterator[Path]:
    seen: set[str] = set()
    for process in _processes():
        with suppress(OSError):
            namespace = os.readlink(process / "ns" / "net")
            if namespace not in seen:
                seen.add(namespace)
                yield process


def _listening(process: Path, wanted: set[tuple[str, int]]) -> Iterator[str]:
    with suppress(OSError):
        for line in (process / "net" / "tcp").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == LISTENING and (address, int(port, 16)) in wanted:
                yield fields[9]


def _hexadecimal(address: str) -> str:
    return socket.inet_aton(address)[::-1].hex().upper()
