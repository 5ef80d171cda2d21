"""A second lab beside any other on this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.workshop.lab.support import LAB, picture
from workshop import lab
from workshop.lab.machine import PACKAGES, environment
from yrpd.project import Project
from yrpd.reporting import Reporter

HOSTS = f"""
[[hosts]]
name = "host1"
address = "10.79.0.1"
engine = "unix:///run/{LAB}/host1/docker.sock"

[[hosts]]
name = "host2"
address = "10.79.0.2"
engine = "unix:///run/{LAB}/host2/docker.sock"
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say plainly where these tests cannot run: they make network namespaces and start engines."""
    missing = [program for program in PACKAGES if shutil.which(program, path=environment()["PATH"]) is None]
    if os.geteuid() == 0 and not missing:
        return
    reason = f"needs root and {', '.join(missing) or 'nothing else'}"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A checkout that owns the lab."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "lab.toml").write_text(HOSTS, encoding="utf-8")
    for name in ("release.toml", "scripts/make_models.py", "scripts/corpus.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(Project.here().root / name, root / name)
    return Project(root)


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(verbose=True)


@pytest.fixture
def clean_machine(project: Project, reporter: Reporter) -> Iterator[dict[str, object]]:
    """The machine before the test; afterwards the lab is taken away, whatever the test did."""
    lab.down(project, reporter, lab_name=LAB)
    before = picture()
    yield before
    lab.down(project, reporter, lab_name=LAB)
    assert picture() == before
