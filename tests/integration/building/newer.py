"""Debian 13's Docker: an engine that is newer than this machine's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workshop import lab
from yrpd.project import Project
from yrpd.reporting import Reporter

LAB = "yrpd-newer"


def docker_of_13() -> Path:
    """Return the folder of its programs, fetched once."""
    folder = Project.here().build / "docker-13"
    fetch = ["bash", "-euc", 'source scripts/setup.sh; fetch_docker_of_13 "$0"', str(folder)]
    subprocess.run(fetch, cwd=Project.here().root, check=True)
    return folder


@contextmanager
def newer_engine() -> Iterator[str]:
    """Run a private engine of Debian 13 and give its address; the commands inside the block use it."""
    folder = docker_of_13()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
            address = str(lab.builder(project=Project.here(), reporter=Reporter(), lab_name=LAB)["engine"])
            patch.setenv("DOCKER_HOST", address)
            yield address
    finally:
        lab.down(project=Project.here(), reporter=Reporter(), lab_name=LAB)
