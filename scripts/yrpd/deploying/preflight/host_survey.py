"""Looks at hosts from inside short-lived containers of the image: what P, D and workers there would see."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from requests import RequestException

from yrpd.deploying.hosts.containers import LOG
from yrpd.deploying.inventory import Host
from yrpd.deploying.preflight.npus import HCCL_PORTS
from yrpd.deploying.spec import LOOK, ContainerSpec
from yrpd.docker.images import find
from yrpd.docker.sdk import APIError, Container, DockerClient, ImageNotFound, Mount
from yrpd.errors import EnvironmentFailure
from yrpd.serving.command_lines import SPILL

PROGRAM = Path(__file__).with_name("survey_program.py")
LOOK_S = 600  # hashing both ends of every file of a large model on a cold disk
# The DataSystem's client in the npu image, and the library that it moves device memory with.
PLUGIN = "/opt/yuanrong/yr/datasystem/lib/libacl_plugin.so"
_NPU = re.compile(r"/dev/davinci(\d+)")
DIAL_S = 60
LEFT_OVER = "20m"


@dataclass(frozen=True)
class Survey:
    """What one host looks like.

    Attributes:
        host: Which.
        report: What the program printed.
        before: Our clock before, in seconds.
        after: Our clock after.
    """

    host: str
    report: Mapping[str, Any]
    before: float
    after: float


def look(
    client: DockerClient, host: Host, image: str, specs: Sequence[ContainerSpec], ports: Sequence[int], folder: str
) -> Survey:
    """Return what a host looks like from inside.

    Args:
        client: Its engine, which has the image.
        host: The host.
        image: The image.
        specs: What would be started there; the container sees the same files and devices.
        ports: Ports that must be free.
        folder: The model's folder inside of containers.

    Raises:
        EnvironmentFailure: The container could not be run, or said nothing that can be read.
    """
    spill = any(mount.target == SPILL for spec in specs for mount in spec.mounts)
    asked = {
        "address": host.address,
        "ports": list(ports),
        "folder": folder,
        "spill": SPILL if spill else "",
        "nodes": sorted({device for spec in specs for device in spec.devices}),
        "npus": numbered_inside(specs),
        "plugin": PLUGIN if any(spec.devices for spec in specs) else "",
        "hccl_ports": list(HCCL_PORTS) if any(len(numbered_inside([spec])) > 1 for spec in specs) else [],
    }
    before = time.time()
    with running(client, host.name, image, specs, {"look": asked}) as container:
        report = answer(container, host.name, LOOK_S)
    return Survey(host.name, report, before, time.time())


def numbered_inside(specs: Sequence[ContainerSpec]) -> dict[str, str]:
    """Return the number that each NPU has inside a container that is given all of some specs', to its host's number.

    The driver numbers from 0 what an unprivileged container has been given, in the host's order; a privileged one sees
    the host's numbers.
    """
    nodes = {device for spec in specs for device in spec.devices}
    numbers = sorted(int(found[1]) for node in nodes if (found := _NPU.fullmatch(node)))
    if any(spec.privileged for spec in specs):
        return {str(number): str(number) for number in numbers}
    return {str(inside): str(number) for inside, number in enumerate(numbers)}


def try_ways(
    clients: Mapping[str, DockerClient],
    hosts: Sequence[Host],
    image: str,
    specs: Mapping[str, Sequence[ContainerSpec]],
    needed: Mapping[str, Sequence[tuple[str, int]]],
) -> dict[str, list[tuple[str, int, str]]]:
    """Let every host reach what it will need of the others.

    Every host gets one container that listens on all its ports and one that dials: as many as hosts, not as pairs.

    Args:
        clients: The hosts' engines.
        hosts: The hosts.
        image: The image.
        specs: Host to what would be started there; its ports are listened on.
        needed: Host to addresses and ports that it will connect to.

    Returns:
        Host to address, port and reason of what it cannot reach.

    Raises:
        EnvironmentFailure: A container could not be run.
    """
    with ExitStack() as stack, ThreadPoolExecutor(max_workers=32) as pool:
        listeners = pool.map(lambda host: _start_listening(clients[host.name], host, image, specs[host.name]), hosts)
        for listener in listeners:
            stack.callback(listener.remove, force=True, v=True)

        def dial(host: Host) -> list[tuple[str, int, str]]:
            asked = {"targets": [list(each) for each in needed[host.name]]}
            with running(clients[host.name], host.name, image, specs[host.name], {"dial": asked}) as dialer:
                told = answer(dialer, host.name, DIAL_S)
            return [(str(each[0]), int(each[1]), str(each[2])) for each in told["unreachable"]]

        return dict(zip([host.name for host in hosts], pool.map(dial, hosts), strict=True))


def _start_listening(client: DockerClient, host: Host, image: str, specs: Sequence[ContainerSpec]) -> Container:
    ports = sorted({port for spec in specs for port in spec.ports})
    container = _started(client, host.name, image, specs, {"listen": {"address": host.address, "ports": ports}})
    try:
        # Its first line says that it listens, so nobody has to guess how long that takes.
        first = next(iter(container.logs(stream=True, follow=True)), b"")
        if b"listening" not in first:
            raise EnvironmentFailure(f"{host.name}: its ports cannot be listened on: {first.decode(errors='replace')}")
    except BaseException:
        container.remove(force=True, v=True)
        raise
    return container


def look_at_all(
    clients: Mapping[str, DockerClient],
    asked: Sequence[tuple[Host, Sequence[ContainerSpec], Sequence[int]]],
    image: str,
    folder: str,
) -> list[Survey | EnvironmentFailure]:
    """Look at several hosts at the same time; what went wrong on one is in its place of the list."""

    def one(item: tuple[Host, Sequence[ContainerSpec], Sequence[int]]) -> Survey | EnvironmentFailure:
        host, specs, ports = item
        try:
            return look(clients[host.name], host, image, specs, ports, folder)
        except EnvironmentFailure as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, min(32, len(asked)))) as pool:
        return list(pool.map(one, asked))


@contextmanager
def running(
    client: DockerClient, host: str, image: str, specs: Sequence[ContainerSpec], asked: Mapping[str, Any]
) -> Iterator[Container]:
    """Run the program in a container of an image, with the mounts, devices and rights of some specs.

    Raises:
        EnvironmentFailure: It could not be run.
    """
    container = _started(client, host, image, specs, asked)
    try:
        yield container
    finally:
        container.remove(force=True, v=True)


def _started(
    client: DockerClient, host: str, image: str, specs: Sequence[ContainerSpec], asked: Mapping[str, Any]
) -> Container:
    mounts = {mount.target: mount for spec in specs for mount in spec.mounts}
    devices = sorted({device for spec in specs for device in spec.devices})
    found = find(client, specs[0].image, image, specs[0].content)
    try:
        # What a look that was killed has left; it ended by itself.
        with suppress(APIError):  # somebody else is pruning
            client.containers.prune(filters={"label": f"{LOOK}={specs[0].deployment}", "until": LEFT_OVER})
        container = client.containers.create(
            str(found.id) if found else image,
            ["python3", "-I", "-c", PROGRAM.read_text(encoding="utf-8"), json.dumps(asked)],
            detach=True,
            network_mode="host",
            init=True,
            mounts=[Mount(each.target, each.source, type="bind", read_only=each.read_only) for each in mounts.values()],
            devices=[f"{device}:{device}:rw" for device in devices],
            labels={LOOK: specs[0].deployment},  # not the deployment's own: other commands may list these meanwhile
            **_rights(specs),
            use_config_proxy=False,
            log_config=LOG,  # whatever the engine's own is: what the program prints is read from it
        )
        try:
            container.start()
        except APIError:
            container.remove(force=True, v=True)
            raise
    except (APIError, ImageNotFound) as error:
        raise EnvironmentFailure(f"{host} cannot be looked at from inside: {error.explanation}.") from error
    return container


def _rights(specs: Sequence[ContainerSpec]) -> dict[str, Any]:
    """Return the rights of what has devices, which are those that a finding about devices must be about."""
    having = [spec for spec in specs if spec.devices]
    if any(spec.privileged for spec in having):
        return {"privileged": True}
    return {
        "cap_drop": ["ALL"],
        "cap_add": sorted({"DAC_READ_SEARCH"}.union(*(spec.capabilities for spec in having))),
        "group_add": sorted({group for spec in having for group in spec.groups}),
        "security_opt": ["no-new-privileges"],
    }


def forget(client: DockerClient, deployment: str) -> None:
    """Remove what looks that were killed have left on a host."""
    for container in client.containers.list(all=True, filters={"label": f"{LOOK}={deployment}"}, ignore_removed=True):
        container.remove(force=True, v=True)


def answer(container: Container, host: str, patience_s: int) -> dict[str, Any]:
    """Return what the program printed.

    Raises:
        EnvironmentFailure: It took too long, failed, or said nothing.
    """
    try:
        code = container.wait(timeout=patience_s)["StatusCode"]
    except (APIError, RequestException) as error:
        raise EnvironmentFailure(f"{host} did not answer within {patience_s} s.") from error
    said = bytes(container.logs(stdout=True, stderr=False)).decode("utf-8", "replace").strip()
    if code != 0 or not said:
        why = bytes(container.logs(stdout=False, stderr=True)).decode("utf-8", "replace").strip()
        raise EnvironmentFailure(f"{host} cannot be looked at from inside: code {code}, {why[-200:]}.")
    told = json.loads(said.splitlines()[-1])
    return told if isinstance(told, dict) else {}
