"""openYuanrong in the built cpu image: its command line starts a data plane, says what runs, and ends it."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from typing import cast

import docker
import pytest
from docker.models.containers import Container

from yrpd.building import commands
from yrpd.project import Project
from yrpd.reporting import Reporter

# The function system is on no package index, so the three parts of it are left out (docs/image.md).
MASTER = ("yr", "start", "--master", "-s", 'values.host_ip="127.0.0.1"')
WITHOUT_FUNCTIONS = tuple(
    word
    for part in ("function_master", "function_proxy", "function_agent")
    for word in ("-s", f"mode.master.{part}=false")
)


@pytest.fixture(scope="module")
def image(engine: str) -> str:
    """The cpu image of this checkout."""
    document = commands.image(project=Project.here(), reporter=Reporter(), flavour="cpu")
    return str(document["image"])


@pytest.fixture
def container(client: docker.DockerClient, image: str) -> Iterator[Container]:
    """A container of it with nothing but a loopback, and a route, which ``yr`` asks for its address."""
    made = client.containers.run(
        image,
        ["sleep", "infinity"],
        name=f"yrpd-test-{uuid.uuid4().hex[:12]}",
        network_mode="none",
        init=True,
        detach=True,
    )
    try:
        made.reload()
        inside = ["nsenter", f"--net=/proc/{made.attrs['State']['Pid']}/ns/net"]
        subprocess.run([*inside, "ip", "route", "add", "default", "dev", "lo"], check=True)
        yield made
    finally:
        made.remove(force=True, v=True)


def _run(container: Container, *command: str) -> tuple[int, str]:
    done = container.exec_run(list(command))
    return cast(int, done.exit_code), cast(bytes, done.output).decode("utf-8", "replace")


def test_both_command_lines_answer_and_keep_out_of_each_others_environment(container: Container) -> None:
    assert _run(container, "yr", "--version") == (0, "yr version: 9.9.9\n")
    code, output = _run(container, "dscli", "--version")
    assert (code, "0.8.1" in output) == (0, True), output
    code, output = _run(container, "python3", "-c", "import yr.datasystem, yr; print(yr.__path__)")
    assert (code, "/opt/vllm/" in output, "/opt/openyuanrong" in output) == (0, True, False), output
    code, output = _run(container, "python3", "-c", "import yr.fnruntime")
    assert code != 0, "vLLM's environment has openyuanrong's own module"


STORE = """
from yr.datasystem import KVClient
client = KVClient("127.0.0.1", 31501)
client.init()
client.set("key", b"value")
print(bytes(client.get(["key"])[0]).decode())
"""


def test_yr_starts_a_master_with_its_data_plane_and_ends_it(container: Container) -> None:
    assert _run(container, "yr", "status")[0] == 1, "nothing runs yet"
    code, output = _run(container, *MASTER, *WITHOUT_FUNCTIONS)
    assert code == 0, output
    # `yr status` asks the function system, which is not there, and answers with its exit code alone.
    assert _run(container, "yr", "status")[0] == 0
    code, health = _run(container, "yr", "health")
    running = {line.split("RUNNING")[0].split()[-1] for line in health.splitlines() if " RUNNING (PID" in line}
    assert (code, running) == (0, {"etcd", "ds_master", "ds_worker"}), health
    code, output = _run(container, "python3", "-c", STORE)
    assert (code, output.splitlines()[-1]) == (0, "value"), output
    code, output = _run(container, "yr", "stop")
    assert code == 0, output
    assert not [row for row in container.top()["Processes"] if "datasystem_worker" in " ".join(row)]
