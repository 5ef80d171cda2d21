"""A real Docker engine for the tests that need one: the one that answers, or one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker import DockerClient
from docker.errors import DockerException

from workshop import lab
from yrpd.docker.connection import candidates, connect
from yrpd.project import Project
from yrpd.reporting import Reporter

LAB = "yrpd-tests"


def answering() -> str | None:
    """The address of the engine that the project's commands would use."""
    for address in candidates():
        try:
            DockerClient(base_url=address).close()
        except DockerException:
            continue
        return address
    return None


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """An engine's address; ``DOCKER_HOST`` names it for one module only: end-to-end tests take labs away."""
    found = answering()
    project, reporter = Project.here(), Reporter()
    if found is None:
        own = lab.builder(project=project, reporter=reporter, lab_name=LAB)["engine"]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", found or own)
            yield found or own
    finally:
        if found is None:
            lab.down(project=project, reporter=reporter, lab_name=LAB)


@pytest.fixture(scope="module")
def client(engine: str) -> Iterator[DockerClient]:
    """A client of that engine."""
    client = connect()
    yield client
    client.close()
