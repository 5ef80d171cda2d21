"""What the machine has of what stages need; the edge that looks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping

from docker import DockerClient
from docker.errors import DockerException

from tests.suite.stages import Need
from yrpd.docker.connection import candidates
from yrpd.errors import EnvironmentFailure
from yrpd.wheels.package_index import open_index

_TIMEOUT_S = 20


def lacking(wanted: Iterable[Need], packages: Iterable[str]) -> Mapping[Need, str]:
    """Return what is missing, each with a sentence that names the next command.

    Args:
        wanted: What the chosen stages need; nothing else is looked at.
        packages: The Debian packages that the tests use.
    """
    checks: dict[Need, Callable[[], str]] = {
        Need.ROOT: lambda: "" if os.geteuid() == 0 else "root is needed; next: sudo bash scripts/test.sh",
        Need.LIBRARIES: lambda: _packages(packages),
        Need.DOCKER: _docker,
        Need.NETWORK: _network,
    }
    reasons = {need: checks[need]() for need in sorted(set(wanted))}
    return {need: reason for need, reason in reasons.items() if reason}


def _packages(names: Iterable[str]) -> str:
    command = ["dpkg-query", "-W", "-f=${binary:Package} ${db:Status-Status}\n", *names]
    if shutil.which(command[0]) is None:
        return "this is no Debian machine: its packages cannot be looked up; next: run the tests on Debian 12"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    there = {line.split()[0].partition(":")[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    missing = [name for name in names if name not in there]
    return f"not installed; next: apt-get install {' '.join(missing)}" if missing else ""


def _docker() -> str:
    for address in candidates():
        try:
            DockerClient(base_url=address, timeout=_TIMEOUT_S).close()
        except DockerException:
            continue
        return ""
    if os.geteuid() == 0 and shutil.which("dockerd"):
        return ""  # the tests start one of their own
    return "no Docker engine answers and none can be started; next: apt-get install docker.io, as root"


def _network() -> str:
    with open_index() as index:
        try:
            said = "" if index.find("pip") else f"pip itself is not found in: {index}"
        except EnvironmentFailure as error:
            said = error.message
    return f"{said}; next: pip config list" if said else ""
