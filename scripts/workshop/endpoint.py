"""An environment with ``envoy`` on this machine, from the wheels that the images get."""

from __future__ import annotations

from pathlib import Path

from yrpd.building.runtime import Locks, install
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.wheels.wheelhouse import provide


def provide_endpoint(project: Project, locks: Locks, folder: Path, log: Path, reporter: Reporter) -> bool:
    """Make it in a folder, unless exactly this one is there; tell whether it was made now."""
    return install(provide(project, locks.endpoint, reporter), locks.endpoint.sha256, folder, log, reporter)
