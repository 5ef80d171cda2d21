"""Processes by identity: what runs, which of it is a lab's, and how it is ended without ever hitting a stranger.

A process number alone says nothing, since numbers are used again. So no pid file is ever trusted: processes are found
by what they are, and a signal goes through a pidfd whose start time was compared first.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from yrpd.errors import EnvironmentFailure

PROC = Path("/proc")
_ENGINE_PROGRAMS = ("dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v2", "runc", "nsenter", "setsid")


@dataclass(frozen=True)
class Process:
    """One running process.

    Attributes:
        pid: Its number.
        parent: Its parent's number.
        started: Clock ticks since boot; number and start together are unique.
        argv: Its command line; empty for zombies and kernel threads.
        namespace: Inode of its network namespace; 0 when unknown.
        cgroups: Its control groups' paths.
    """

    pid: int
    parent: int
    started: int
    argv: tuple[str, ...]
    namespace: int = 0
    cgroups: frozenset[str] = frozenset()

    def runs(self, program: str, configuration: Path) -> bool:
        """Return whether this is the given program started with the given configuration file."""
        return bool(self.argv) and os.path.basename(self.argv[0]) == program and str(configuration) in self.argv


def snapshot() -> list[Process]:
    """Return all processes that live now; zombies are dead."""
    found = (_read(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None]


def of_lab(processes: list[Process], run: Path, cgroup: str, namespaces: Iterable[int]) -> list[Process]:
    """Return a lab's processes: its engines, what is in its namespaces or control groups, and all their children.

    Args:
        processes: All processes.
        run: The lab's run folder; engines and shims carry it in their command lines.
        cgroup: The lab's control group.
        namespaces: Inodes of the lab's network namespaces.
    """
    inodes = set(namespaces)
    mine = {p.pid for p in processes if _is_engine(p, run) or p.namespace in inodes or _is_under(p, cgroup)}
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    queue = list(mine)
    while queue:
        new = [pid for pid in children.get(queue.pop(), []) if pid not in mine]
        mine.update(new)
        queue.extend(new)
    spared = _ancestry(processes, os.getpid())
    return [p for p in processes if p.pid in mine and p.pid not in spared]


def end(processes: Iterable[Process], grace_s: float) -> list[Process]:
    """End processes: ask, wait, then kill.

    Args:
        processes: What to end; one that is gone, or whose number belongs to another by now, is left alone.
        grace_s: Seconds between asking and killing.

    Returns:
        What had to be killed.

    Raises:
        EnvironmentFailure: One does not end even then.
    """
    with ExitStack() as stack:
        open_ones: dict[int, Process] = {}
        for process in processes:
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(process.pid)
                stack.callback(os.close, handle)
                current = _read(process.pid)
                if current is not None and current.started == process.started:
                    open_ones[handle] = process
        stubborn = _signal_and_wait(open_ones, signal.SIGTERM, grace_s)
        killed = list(stubborn.values())
        left = _signal_and_wait(stubborn, signal.SIGKILL, 10.0)
        if left:
            numbers = ", ".join(str(p.pid) for p in left.values())
            raise EnvironmentFailure(
                f"The processes {numbers} do not end even when killed; the kernel holds them.",
                next_command="invoke lab.down",
            )
        return killed


def _signal_and_wait(handles: dict[int, Process], number: signal.Signals, seconds: float) -> dict[int, Process]:
    poll = select.poll()
    waiting = dict(handles)
    for handle in handles:
        poll.register(handle, select.POLLIN)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
    deadline = time.monotonic() + seconds
    while waiting and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(left * 1000):
            poll.unregister(handle)
            waiting.pop(handle)
    return waiting


def _is_engine(process: Process, run: Path) -> bool:
    if not process.argv or os.path.basename(process.argv[0]) not in _ENGINE_PROGRAMS:
        return False
    return any(argument.startswith(f"{run}/") for argument in process.argv)


def _is_under(process: Process, cgroup: str) -> bool:
    return any(path == f"/{cgroup}" or path.startswith(f"/{cgroup}/") for path in process.cgroups)


def _ancestry(processes: list[Process], pid: int) -> set[int]:
    parents = {p.pid: p.parent for p in processes}
    line = set()
    while pid in parents and pid not in line:
        line.add(pid)
        pid = parents[pid]
    return line


def _read(pid: int) -> Process | None:
    folder = PROC / str(pid)
    try:
        # The name in parentheses may hold anything, so fields are counted from the last parenthesis: proc(5), stat.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        argv = tuple(part for part in (folder / "cmdline").read_bytes().decode(errors="replace").split("\0") if part)
        cgroups = frozenset(line.split(":", 2)[2] for line in (folder / "cgroup").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), int(fields[19]), argv, _namespace(folder), cgroups)


def _namespace(folder: Path) -> int:
    try:
        return (folder / "ns" / "net").stat().st_ino
    except OSError:
        return 0
