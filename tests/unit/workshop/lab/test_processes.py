"""Whose a process is, and that ending it never hits another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from workshop.lab import processes
from workshop.lab.processes import Process, of_lab

RUN = Path("/run/yrpd-lab")
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"


def mine(*found: Process) -> set[int]:
    return {process.pid for process in of_lab(list(found), RUN, "yrpd-lab", {77})}


def test_engines_namespaces_control_groups_and_children_are_the_labs() -> None:
    assert mine(
        Process(2, 1, 1, ("/usr/sbin/dockerd", "--config-file", "/run/yrpd-lab/host1/daemon.json")),
        Process(3, 1, 1, ("containerd-shim-runc-v2", "-address", "/run/yrpd-lab/host1/containerd.sock")),
        Process(4, 1, 1, ("python3",), namespace=77),
        Process(5, 1, 1, ("python3",), cgroups=frozenset({"/yrpd-lab/host1/abc"})),
        Process(6, 5, 1, ("sh",)),
        Process(7, 6, 1, ("sleep",)),
    ) == {2, 3, 4, 5, 6, 7}


def test_strangers_are_not_the_labs() -> None:
    assert not mine(
        Process(2, 1, 1, ("dockerd",)),
        Process(3, 1, 1, ("dockerd", "--config-file", "/run/yrpd-lab2/host1/daemon.json")),
        Process(4, 1, 1, ("tail", "-f", "/run/yrpd-lab/host1/dockerd.log")),
        Process(5, 1, 1, ("python3",), namespace=78, cgroups=frozenset({"/yrpd-lab2/x", "/user/yrpd-lab"})),
        Process(6, 1, 1, ()),
    )


def test_this_process_and_its_ancestors_are_spared() -> None:
    own = processes.snapshot()
    everything = {process.namespace for process in own}
    spared = {os.getpid(), os.getppid()}
    assert not spared & {process.pid for process in of_lab(own, RUN, "yrpd-lab", everything)}


def test_a_stubborn_process_is_killed_and_a_stranger_with_its_number_is_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()
        (seen,) = (process for process in processes.snapshot() if process.pid == child.pid)
        assert processes.end([replace(seen, started=seen.started + 1)], 5) == []
        assert child.poll() is None
        assert processes.end([seen], 0.1) == [seen]
        assert child.wait() == -signal.SIGKILL
    assert processes.end([seen], 0.1) == []
