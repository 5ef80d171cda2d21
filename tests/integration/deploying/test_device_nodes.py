"""Device nodes as a driver makes them, on a real engine: who may open them is seen with the rights of P and D."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker import DockerClient

from yrpd.deploying.hosts import containers
from yrpd.deploying.inventory import Host
from yrpd.deploying.preflight import host_survey, npus
from yrpd.deploying.spec import ContainerSpec, Mount

GROUP = 1007
PROGRAM = "import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR)); print('opened')"


@pytest.fixture
def node() -> Iterator[str]:
    """A device node of a group, closed to everybody else: what the driver's installation leaves without for-all."""
    path = Path(f"/dev/yrpd-test-{uuid.uuid4().hex[:8]}")
    os.mknod(path, stat.S_IFCHR | 0o660, os.makedev(1, 3))
    os.chown(path, GROUP, GROUP)
    os.chmod(path, 0o660)
    try:
        yield str(path)
    finally:
        path.unlink()


@pytest.fixture
def spec(node: str, free_port: Callable[[], int], make_spec: Callable[..., ContainerSpec]) -> ContainerSpec:
    """What P and D have: no capability but that to read their model."""
    made = make_spec(port=free_port(), mounts=(Mount("/usr", "/usr"),))
    return replace(
        made, argv=("python3", "-I", "-c", PROGRAM, node), devices=(node,), capabilities=("DAC_READ_SEARCH",)
    )


@pytest.mark.parametrize(("groups", "opens"), [((), False), ((GROUP,), True)])
def test_what_the_survey_says_of_a_node_is_what_p_and_d_meet(
    client: DockerClient, image: str, engine: str, spec: ContainerSpec, node: str, groups: tuple[int, ...], opens: bool
) -> None:
    given = replace(spec, groups=groups)
    container = containers.start(client, given)
    try:
        assert (container.wait()["StatusCode"] == 0) is opens, containers.log_text(container)
    finally:
        container.remove(force=True)
    host = Host(name="one", engine=engine, address="127.0.0.1")
    survey = host_survey.look(client, host, image, [given], [], "/nowhere")
    found = list(npus.node_findings("one", survey.report["nodes"]))
    if opens:
        assert found == []
    else:
        assert [(each.id, each.fix) for each in found] == [
            ("device-permission", f"device_groups = [{GROUP}]  # of one, in the inventory")
        ]
