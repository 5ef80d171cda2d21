"""A fresh clone on a fresh machine, a year after its commit: no cache, an index that went on, the Pythons' own pips."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from tests.integration.front_door.next_year import Newer, NextYear, OnlyLocked, Real
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter
from yrpd.wheels.locks import parse_lock
from yrpd.wheels.package_index import download, open_index

PROJECT = Project.here()
# Debian 12's pip, and the one that CPython 3.11.4 to 3.11.7 bring.
PIPS = {
    "23.0.1": "236bcb61156d76c4b8a05821b988c7b8c35bf0da28a4b614e8d6ab5212c25c6f",
    "23.2.1": "7ccf472345f20d35bdc9d1841ff5f313260c2c33fe417f48c30ac46cccabf5be",
}
PYTHON = """#!/bin/sh
# Python 3.11 as its distribution ships it: a new virtual environment has the pip of that release.
if [ "$1 $2" != "-m venv" ]; then exec {python} "$@"; fi
{python} -m venv --without-pip "$3" && PYTHONPATH={wheel} exec "$3/bin/python" -m pip install -q --no-index {wheel}
"""


def locked_files() -> frozenset[str]:
    """The hashes of all files that this checkout names."""
    release = load_release(PROJECT.release_file)
    locks = [PROJECT.root / "requirements.lock", *PROJECT.docker.glob("*.lock"), *PROJECT.root.glob("scripts/*.lock")]
    entries = [one for path in locks for one in parse_lock(path.read_text(encoding="utf-8"), path.name)]
    sdists = {pin.sdist.sha256 for pin in (*release.pins.values(), *release.known.values())}
    return frozenset(sdists.union(*(one.hashes for one in entries)))


@dataclass(frozen=True)
class Machine:
    """A fresh machine with a fresh clone.

    Attributes:
        clone: The checkout.
        environment: What its shells see.
    """

    clone: Path
    environment: dict[str, str]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell in the clone; what it prints is kept."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.clone,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def clone_here(target: Path) -> None:
    """Clone this checkout, with what is not committed yet."""
    root = PROJECT.root
    subprocess.run(["git", "clone", "--quiet", "--no-local", str(root), str(target)], check=True)
    listed = ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]:
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
        else:
            (target / name).unlink()


@pytest.fixture(scope="session")
def real() -> Iterator[Real]:
    """The index that this machine's pip is configured with."""
    with open_index() as index:
        yield Real(index, PROJECT.cache / "front-door", [PROJECT.cache / "wheels", PROJECT.cache / "sdist"])


@pytest.fixture(scope="session")
def pips(real: Real) -> dict[str, Path]:
    """The wheel of each pip."""
    paths = {}
    for version, sha256 in PIPS.items():
        file = f"pip-{version}-py3-none-any.whl"
        paths[version] = real.kept / sha256 / file
        if not paths[version].is_file():
            reporter = Reporter()
            reporter.console = Console(stderr=True, quiet=True)
            download("pip", file, sha256, paths[version], reporter)
    return paths


@pytest.fixture
def newer(real: Real) -> NextYear:
    """An index in which every project has a newer version."""
    return Newer(real)


@pytest.fixture
def only_locked(real: Real) -> NextYear:
    """An index that has lost what no lock names."""
    return OnlyLocked(real, locked_files())


class Machines:
    """Makes fresh machines."""

    def __init__(self, folder: Path, pips: dict[str, Path]) -> None:
        self.folder = folder
        self.pips = pips

    def fresh(self, index_url: str, pip: str) -> Machine:
        """Return a machine with an empty home, one index, and a Python 3.11 with this pip."""
        clone, home, programs = (self.folder / name for name in ("clone", "home", "programs"))
        clone_here(clone)
        home.mkdir()
        programs.mkdir()
        python = shlex.quote(str(Path(getattr(sys, "_base_executable", sys.executable)).resolve()))
        shim = programs / "python3.11"
        shim.write_text(PYTHON.format(python=python, wheel=shlex.quote(str(self.pips[pip]))))
        shim.chmod(0o755)
        kept = ("LANG", "LC_ALL", "TZ", "TMPDIR", "COVERAGE_PROCESS_START")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(home),
            "NO_PROXY": "127.0.0.1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index_url,
            # A file that the real index has to send first may take its time.
            "PIP_DEFAULT_TIMEOUT": "300",
            "YRPD_FLAVOUR": "cpu",
        }
        return Machine(clone, environment)


@pytest.fixture
def machines(tmp_path: Path, pips: dict[str, Path]) -> Iterator[Machines]:
    """Makes a fresh machine in this test's folder; nothing stays, since pytest would keep three runs' gigabytes."""
    yield Machines(tmp_path, pips)
    for path in tmp_path.iterdir():
        shutil.rmtree(path)
