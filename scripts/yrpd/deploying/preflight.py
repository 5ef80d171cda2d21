"""Looks at every host before anything is changed there, and reports all that stands in the way at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker import DockerClient
from docker.errors import NotFound

from yrpd.deploying import model_folder, ports, transfer
from yrpd.deploying.engines import LAB_ENGINES
from yrpd.deploying.image_record import ImageRecord
from yrpd.deploying.inventory import Host, Inventory
from yrpd.deploying.reconcile import Change
from yrpd.deploying.spec import DEPLOYMENT, PORTS, ContainerSpec
from yrpd.errors import EnvironmentFailure

MEBI = 1 << 20
MOUNT_FIX = "correct driver_mounts, or the paths of keys, certificates and spill, in the inventory"
DISK_RESERVE_BYTES = 2 << 30  # logs, layers, metadata beside the image


@dataclass(frozen=True)
class Finding:
    """Something that stands in the way.

    Attributes:
        id: What kind of thing; stays the same from release to release.
        host: Where.
        problem: One sentence.
        fix: What to type next.
    """

    id: str
    host: str
    problem: str
    fix: str

    def document(self) -> dict[str, str]:
        """Return the finding as JSON values."""
        return {"id": self.id, "host": self.host, "message": self.problem, "fix": self.fix}


@dataclass(frozen=True)
class Situation:
    """All that preflight looks at.

    Attributes:
        inventory: What is wanted.
        image: The image that every container runs.
        folder: The model's folder on the hosts.
        changes: What would be done to each container.
        clients: The hosts' engines.
        builder: The engine that has the image when a host does not; ``None`` when none answers.
    """

    inventory: Inventory
    image: ImageRecord
    folder: str
    changes: Sequence[Change]
    clients: Mapping[str, DockerClient]
    builder: DockerClient | None


def inspect(situation: Situation) -> list[Finding]:
    """Return everything that stands in the way, host by host."""
    findings: list[Finding] = []
    for host in situation.inventory.hosts:
        client = situation.clients[host.name]
        specs = [
            each.spec
            for each in situation.changes
            if each.spec and each.host == host.name and each.action in ("create", "replace")
        ]
        if not specs:
            continue
        information: dict[str, Any] = client.info()
        findings += _image(situation, host, client, information)
        findings += _model(situation, host, client, specs)
        findings += _ports(situation, host, specs)
        findings += _names(situation, host, client, specs)
        findings += _memory(situation, host, information)
    return findings


def demand_nothing_in_the_way(findings: Sequence[Finding]) -> None:
    """Raise one error for all findings.

    Raises:
        EnvironmentFailure: There are findings.
    """
    if not findings:
        return
    first = findings[0]
    message = f"{first.host}: {first.problem}."
    if len(findings) > 1:
        message = f"{len(findings)} things stand in the way, nothing was changed. The first: {message}"
    raise EnvironmentFailure(
        message,
        next_command=first.fix,
        detail="\n".join(f"[{each.id}] {each.host}: {each.problem}; {each.fix}" for each in findings),
        document={
            "error": message,
            "exit_code": EnvironmentFailure.exit_code,
            "next": first.fix,
            "findings": [each.document() for each in findings],
        },
    )


def _image(situation: Situation, host: Host, client: DockerClient, information: Mapping[str, Any]) -> Iterator[Finding]:
    image, again = situation.image, f"invoke image --flavour {situation.image.flavour}"
    if transfer.has_image(client, image):
        return
    if situation.builder is None or not transfer.has_image(situation.builder, image):
        where = "the build engine does not answer" if situation.builder is None else "nor does the build engine"
        yield Finding("image-missing", host.name, f"it does not have the image {image.reference}, and {where}", again)
        return
    found = str(situation.builder.images.get(image.id).attrs.get("Architecture", ""))
    if not _same_architecture(found, str(information.get("Architecture", ""))):
        yield Finding(
            "architecture",
            host.name,
            f"it is {information['Architecture']}, the image {image.reference} {found}",
            again,
        )
    root = str(information.get("DockerRootDir", ""))
    if model_folder.is_local(host) and Path(root).is_dir():
        needed = transfer.image_bytes(situation.builder, image) + DISK_RESERVE_BYTES
        free = shutil.disk_usage(root).free
        if free < needed:
            yield Finding(
                "disk",
                host.name,
                f"{root} has {free // MEBI} MiB free, the image needs {needed // MEBI} MiB",
                f"docker -H {host.engine} system prune",
            )


def _same_architecture(image: str, host: str) -> bool:
    names = {"amd64": "x86_64", "arm64": "aarch64"}
    return not image or not host or names.get(image, image) == names.get(host, host)


def _model(situation: Situation, host: Host, client: DockerClient, specs: Iterable[ContainerSpec]) -> Iterator[Finding]:
    mounting = [spec for spec in specs if spec.mounts]
    if not mounting:
        return
    needs_model = any(mount.source == situation.folder for spec in mounting for mount in spec.mounts)
    fix = f"scp -r MODEL {host.address}:{situation.folder}  # or correct [model] path in the inventory"
    if host.engine.startswith(LAB_ENGINES):
        fix = "invoke lab.up  # makes build/models; or correct [model] path in the inventory"
    sources = {mount.source for spec in mounting for mount in spec.mounts} - {situation.folder}
    if model_folder.is_local(host):
        problem = model_folder.local_problem(Path(situation.folder)) if needs_model else ""
        if problem:
            yield Finding("model", host.name, problem, fix)
        for source in sorted(sources):
            if not Path(source).exists():
                yield Finding(
                    "mount",
                    host.name,
                    f"{source} does not exist",
                    MOUNT_FIX,
                )
        for device in sorted({device for spec in mounting for device in spec.devices}):
            if not Path(device).exists():
                yield Finding("device", host.name, f"{device} does not exist", "correct devices in the inventory")
        return
    for problem in model_folder.remote_problems(
        client, situation.folder if needs_model else "", tuple(sorted(sources))
    ):
        yield Finding("model" if "model folder" in problem else "mount", host.name, problem, fix)


def _ports(situation: Situation, host: Host, specs: Iterable[ContainerSpec]) -> Iterator[Finding]:
    ours = _ports_of_running(situation, host)
    for spec in specs:
        for port in spec.ports:
            if port in ours or not ports.answers(host.address, port):
                continue
            who = ports.holder(host.address, port) if model_folder.is_local(host) else ""
            yield Finding(
                "port-in-use",
                host.name,
                f"port {port}, wanted by {spec.name}, is in use" + (f" by {who}" if who else ""),
                f"ss -ltnp 'sport = :{port}'  # on {host.name}; free it, or change {spec.role}'s port in the inventory",
            )


def _ports_of_running(situation: Situation, host: Host) -> set[int]:
    """Ports that containers of this deployment hold now; replacing them frees these."""
    held: set[int] = set()
    for container in situation.clients[host.name].containers.list(
        filters={"label": f"{DEPLOYMENT}={situation.inventory.name}"}, ignore_removed=True
    ):
        held |= {int(port) for port in container.labels.get(PORTS, "").split(",") if port}
    return held


def _names(situation: Situation, host: Host, client: DockerClient, specs: Iterable[ContainerSpec]) -> Iterator[Finding]:
    for spec in specs:
        try:
            container = client.containers.get(spec.name)
        except NotFound:
            continue
        if container.labels.get(DEPLOYMENT) != situation.inventory.name:
            yield Finding(
                "name-taken",
                host.name,
                f"a container {spec.name} is there that this tool did not make",
                f"docker -H {host.engine} rename {spec.name} {spec.name}-old, or change name in the inventory",
            )


def _memory(situation: Situation, host: Host, information: Mapping[str, Any]) -> Iterator[Finding]:
    has = int(information.get("MemTotal") or 0) // MEBI
    wanted = situation.inventory.datasystem.memory_mb
    if has and wanted > has:
        yield Finding(
            "memory",
            host.name,
            f"its {has} MiB of memory cannot hold a pool of {wanted} MiB",
            "lower datasystem.memory_mb in the inventory",
        )
