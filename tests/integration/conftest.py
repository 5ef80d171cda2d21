"""A real Docker engine for the tests that need one, the one that answers or one of their own, and a real registry."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from docker import DockerClient
from docker.errors import DockerException
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from workshop import lab
from yrpd.docker.connection import candidates, connect
from yrpd.project import Project
from yrpd.reporting import Reporter

LAB = "yrpd-tests"
CONFIGURATION = """version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: {folder}
http:
  addr: 127.0.0.1:{port}
"""


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


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry that is empty; engines speak plain HTTP to loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = tmp_path / "registry.yml"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path / "registry", port=port))
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(configuration)], stdout=log, stderr=log)
    try:
        waiting = Retrying(
            stop=stop_after_delay(60), wait=wait_fixed(0.1), retry=retry_if_exception_type(requests.ConnectionError)
        )
        waiting(requests.get, f"http://127.0.0.1:{port}/v2/", timeout=10)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
