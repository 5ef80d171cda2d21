"""Looks at every host before anything is changed there, and reports all that stands in the way at once."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yrpd.deploying.hosts import model_folder, transfer
from yrpd.deploying.hosts.engines import LAB_ENGINES
from yrpd.deploying.image_source import BuildEngine
from yrpd.deploying.inventory import Host
from yrpd.deploying.planning import ports
from yrpd.deploying.preflight.findings import Finding
from yrpd.deploying.preflight.host_checks import inspect_inside
from yrpd.deploying.preflight.host_survey import numbered_inside
from yrpd.deploying.preflight.situation import Situation, held_ports, starting
from yrpd.deploying.spec import DEPLOYMENT, ContainerSpec
from yrpd.docker.sdk import DockerClient, NotFound

MEBI = 1 << 20
# Host memory that HeteroClient pins for each NPU at its first transfer, where it copies by FFTS and not "direct".
PINNED_MB = 2560
COPY_POLICIES = ("DS_D2H_MEMCPY_POLICY", "DS_H2D_MEMCPY_POLICY")
MOUNT_FIX = "correct driver_mounts, lora-modules, or the paths of keys, certificates and spill, in the inventory"
# Before it, Docker's default seccomp profile refuses clone3 in a way that glibc 2.34 and newer take for "no more
# threads" (https://github.com/moby/moby/issues/42681).
MINIMUM_VERSION = (20, 10, 10)
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
DISK_RESERVE_BYTES = 2 << 30  # logs, layers, metadata beside the image


def inspect(situation: Situation) -> list[Finding]:
    """Return everything that stands in the way: what the engines tell, then what hosts with the image look like."""
    findings: list[Finding] = []
    for host, specs in starting(situation):
        client = situation.clients[host.name]
        information: dict[str, Any] = client.info()
        findings += _engine(host, client)
        findings += _image(situation, host, client, information)
        findings += _files(situation, host, client, specs)
        findings += _ports(situation, host, specs)
        findings += _names(situation, host, client, specs)
        findings += _memory(situation, host, information, specs)
    blocked = {finding.host for finding in findings}
    without = {host.name for host in lacking_image(situation)}
    inside = [host for host, _ in starting(situation) if host.name not in blocked | without]
    return findings + inspect_inside(situation, inside)


def lacking_image(situation: Situation) -> list[Host]:
    """Return the hosts where containers would be started and the image is not."""
    hosts = [host for host, _ in starting(situation)]
    return [host for host in hosts if transfer.image_on(situation.clients[host.name], situation.image) is None]


def _engine(host: Host, client: DockerClient) -> Iterator[Finding]:
    told = str(client.version().get("Version", ""))
    if not is_new_enough(told):
        yield Finding(
            "engine-version",
            host.name,
            f"Docker {told} is too old: it lets no thread start under glibc 2.34",
            f"install Docker {'.'.join(map(str, MINIMUM_VERSION))} or newer on {host.name}, from Docker's own packages",
        )


def is_new_enough(version: str) -> bool:
    """Tell whether an engine's version is one that the images run on; one without a number is taken for new.

    >>> is_new_enough("20.10.9"), is_new_enough("20.10.21+dfsg1"), is_new_enough("18.09.0")
    (False, True, False)
    """
    found = _NUMBERS.match(version)
    return found is None or tuple(map(int, found[0].split("."))) >= MINIMUM_VERSION


def _image(situation: Situation, host: Host, client: DockerClient, information: Mapping[str, Any]) -> Iterator[Finding]:
    image, there = situation.image, transfer.image_on(client, situation.image)
    source = BuildEngine(client, image) if there else situation.source  # what a host has need not be what it can run
    why = source.lacks()
    if why:
        problem = f"it does not have the image {image.reference}, and {why}"
        yield Finding("image-missing", host.name, problem, source.remedy)
        return
    found = source.architecture()
    if not _same_architecture(found, str(information.get("Architecture", ""))):
        yield Finding(
            "architecture",
            host.name,
            f"it is {information['Architecture']}, the image {image.reference} {found}",
            f"DOCKER_HOST={host.engine} invoke image --flavour {image.flavour}   (builds it on that machine)",
        )
    root = str(information.get("DockerRootDir", ""))
    if not there and model_folder.is_local(host) and Path(root).is_dir():
        needed = source.size_bytes() + DISK_RESERVE_BYTES
        free = shutil.disk_usage(root).free
        if free < needed:
            told = f"{root} has {free // MEBI} MiB free, the image needs {needed // MEBI} MiB"
            yield Finding("disk", host.name, told, f"docker -H {host.engine} system prune")


def _same_architecture(image: str, host: str) -> bool:
    names = {"amd64": "x86_64", "arm64": "aarch64"}
    return not image or not host or names.get(image, image) == names.get(host, host)


def _files(situation: Situation, host: Host, client: DockerClient, specs: Iterable[ContainerSpec]) -> Iterator[Finding]:
    """Yield what lacks of the files and devices that containers mount: the model's folder, and all others."""
    mounted = {mount.source for spec in specs for mount in spec.mounts}
    folder = situation.folder if situation.folder in mounted else ""
    others = tuple(sorted(mounted - {situation.folder}))
    fix = f"scp -r MODEL {host.address}:{situation.folder}  # or correct [model] path in the inventory"
    if host.engine.startswith(LAB_ENGINES):
        fix = "invoke lab.up  # makes build/models; or correct [model] path in the inventory"
    for problem in model_folder.problems(client, folder, others):
        about_model = "model folder" in problem
        yield Finding("model" if about_model else "mount", host.name, problem, fix if about_model else MOUNT_FIX)
    for device in sorted({device for spec in specs for device in spec.devices} if model_folder.is_local(host) else ()):
        if not Path(device).exists():
            yield Finding("device", host.name, f"{device} does not exist", "correct devices in the inventory")


def _ports(situation: Situation, host: Host, specs: Iterable[ContainerSpec]) -> Iterator[Finding]:
    ours = held_ports(situation, host)
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


def _memory(
    situation: Situation, host: Host, information: Mapping[str, Any], specs: Sequence[ContainerSpec]
) -> Iterator[Finding]:
    has = int(information.get("MemTotal") or 0) // MEBI
    pool = situation.inventory.datasystem.memory_mb
    shared = sum(spec.shm_mb for spec in specs)
    staged = [spec for spec in specs if {dict(spec.env).get(name, "direct") for name in COPY_POLICIES} != {"direct"}]
    pinned = PINNED_MB * sum(len(numbered_inside([spec])) for spec in staged)
    if has and pool > has:
        told = f"its {has} MiB of memory cannot hold a pool of {pool} MiB"
        yield Finding("memory", host.name, told, "lower datasystem.memory_mb in the inventory")
    elif has and pool + shared + pinned > has:
        more = f", and {pinned} MiB that the DataSystem's clients pin for their NPUs" if pinned else ""
        told = f"its {has} MiB of memory cannot hold a pool of {pool} MiB and {shared} MiB of /dev/shm{more}"
        yield Finding(
            "shared-memory", host.name, told, "lower containers.shm_mb or datasystem.memory_mb in the inventory"
        )
