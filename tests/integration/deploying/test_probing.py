"""Containers that an engine started again, on a real engine: one that crashed before the waiting, and one during it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from docker import DockerClient
from docker.models.containers import Container
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from tests.integration.deploying.conftest import SERVER
from yrpd.deploying.hosts import containers
from yrpd.deploying.hosts.probing import wait_until_ready
from yrpd.deploying.spec import ContainerSpec
from yrpd.errors import DeployError

# Ends with 1 as long as a file of its volume is not there, which it leaves behind: it serves when it is started again.
ONCE = "import os, sys; p = '/run/crashed'\nif not os.path.exists(p): open(p, 'w').close(); sys.exit(1)\n" + SERVER


@pytest.fixture
def spec(make_spec: Callable[..., ContainerSpec], free_port: Callable[[], int]) -> ContainerSpec:
    """A server that the engine starts again whenever it ends."""
    port = free_port()
    return replace(make_spec(port=port), restart="unless-stopped", argv=("python3", "-c", ONCE, str(port)))


@retry(stop=stop_after_delay(30), wait=wait_fixed(0.1), retry=retry_if_result(lambda count: count < 1))
def _started_again(container: Container) -> int:
    container.reload()
    return int(container.attrs["RestartCount"])


def test_one_that_crashed_before_and_serves_is_ready(client: DockerClient, spec: ContainerSpec) -> None:
    container = containers.start(client, spec)
    _started_again(container)
    assert wait_until_ready(spec.title, spec.probe, container) >= 0


def test_one_that_keeps_crashing_is_given_up_at_once(client: DockerClient, spec: ContainerSpec) -> None:
    broken = replace(spec, argv=("python3", "-c", "import sys; sys.exit(3)"))
    container = containers.start(client, broken)
    _started_again(container)
    with pytest.raises(DeployError, match="ended with code"):
        wait_until_ready(broken.title, broken.probe, container)
