"""Containers as data: what would run, where, and how its readiness is asked. Nothing here speaks to an engine."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

Role = Literal["etcd", "worker", "prefill", "decode", "router", "endpoint", "reference"]

LABEL_PREFIX = "io.yuanrong.yrpd."
DEPLOYMENT = f"{LABEL_PREFIX}deployment"
ROLE = f"{LABEL_PREFIX}role"
SPEC = f"{LABEL_PREFIX}spec"
IMAGE_ID = f"{LABEL_PREFIX}image"
PORTS = f"{LABEL_PREFIX}ports"
SETTLED = f"{LABEL_PREFIX}settled"
LIVE = f"{LABEL_PREFIX}live"
RUNS = f"{LABEL_PREFIX}runs"
# What changes without making a container anew, as inventories have it that say nothing of it.
IN_PLACE: Mapping[str, Any] = {"restart": "no", "restart_attempts": 0, "stop_seconds": 60}
READS = f"{LABEL_PREFIX}reads"
LOOK = f"{LABEL_PREFIX}look"  # what only looks at a host, for a moment

ENGINES: tuple[Role, ...] = ("decode", "prefill")  # D first

# Start order: what a role needs is up before it. P and D share a wave, so they load the model at the same time.
# Releases of earlier versions have a router, which a rollback starts again.
WAVES: tuple[tuple[Role, ...], ...] = (("etcd",), ("worker",), ("prefill", "decode"), ("router", "endpoint"))
START_ORDER: Mapping[str, int] = {role: position for position, wave in enumerate(WAVES) for role in wave}


@dataclass(frozen=True)
class HttpProbe:
    """Ready when a GET answers 200, and the answer's text contains all of ``contains``.

    Attributes:
        url: What to get.
        contains: Texts that must all be in the answer.
        deadline_s: How long until it counts as failed.
    """

    url: str
    contains: tuple[str, ...] = ()
    deadline_s: int = 60


@dataclass(frozen=True)
class FileProbe:
    """Ready when a file exists inside the container, and its port answers.

    Attributes:
        path: The file, written by the service when it is ready.
        address: Where its port is.
        port: The port.
        deadline_s: How long until it counts as failed.
    """

    path: str
    address: str
    port: int
    deadline_s: int = 60


Probe = HttpProbe | FileProbe


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host inside the container.

    Attributes:
        source: On the host; it must exist.
        target: In the container.
        read_only: Whether the container may not write there.
    """

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Volume:
    """A named volume of the host, shared by containers there.

    Attributes:
        name: The volume.
        target: In the container.
    """

    name: str
    target: str


@dataclass(frozen=True)
class ContainerSpec:
    """One container, completely.

    Attributes:
        host: The inventory's name of the host.
        engine: The host's Docker engine.
        deployment: The deployment's name.
        role: What it does.
        name: The container's name, unique on its host.
        image: Name of the image.
        image_id: The image itself, by its id on the engine that built it.
        argv: The command, complete; an image's entry point, such as one that sets CANN's variables, gets it.
        probe: How its readiness is asked.
        ports: Ports it listens on, on the host's network.
        env: Environment variables, sorted.
        mounts: Bind mounts.
        volumes: Named volumes.
        tmpfs: Folder and options.
        devices: Device nodes.
        capabilities: Capabilities kept; all others are dropped.
        restart: Docker's restart policy.
        restart_attempts: How often ``on-failure`` tries; 0 is for ever.
        privileged: All rights of the host's root.
        shm_mb: Size of ``/dev/shm``.
        stop_seconds: Grace between SIGTERM and SIGKILL.
        needs: Names of containers, with their specs' digests, that it must be restarted with.
        after: Names of containers that it is started after, and finds again when they are started anew.
        user: Numbers of the user and group that it runs as; empty for the image's, root.
        groups: Numbers of more groups that it belongs to.
        reads: Identity of mounted files that it reads once, at its start; empty where nobody has looked. It has a label
            of its own, so that what is not known counts as equal.
        live: Paths and contents of files of its own that it reads again whenever they change; a change of these is made
            while it runs.
        runs: Identity of what it runs of its image; empty is all of it. Another image with the same is no reason to
            make it anew: a worker's pool would be lost.
        content: The image's identity on engines that have another id for it; empty where it is not known.
    """

    host: str
    engine: str
    deployment: str
    role: Role
    name: str
    image: str
    image_id: str
    argv: tuple[str, ...]
    probe: Probe
    ports: tuple[int, ...]
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    restart: str = "no"
    restart_attempts: int = 0
    privileged: bool = False
    shm_mb: int = 64
    stop_seconds: int = 30
    needs: tuple[tuple[str, str], ...] = field(default=())
    after: tuple[str, ...] = ()
    user: str = ""
    groups: tuple[int, ...] = ()
    reads: str = ""
    live: tuple[tuple[str, str], ...] = ()
    runs: str = ""
    content: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the container among all hosts."""
        return self.host, self.name

    @cached_property
    def digest(self) -> str:
        """Identity of what it would run: everything but what one waits for, how long, and how the host is reached."""
        inputs = asdict(self)
        for unrelated in ("probe", "engine", "image", "after", "live", "runs", "reads", "content"):
            del inputs[unrelated]
        # Empty, these count as absent: the digest is that of versions which had no such fields, so that an update of
        # this tool alone recreates no container.
        for optional in ("user", "groups"):
            if not inputs[optional]:
                del inputs[optional]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    @property
    def title(self) -> str:
        """What people read of it."""
        return f"{self.name} on {self.host}"

    @property
    def need(self) -> tuple[str, str]:
        """What those refer to it by that are restarted with it: a change in place restarts nothing."""
        return self.name, replace(self, **IN_PLACE).digest

    @property
    def labels(self) -> dict[str, str]:
        """Labels that a later run recognises it by."""
        return {
            DEPLOYMENT: self.deployment,
            ROLE: self.role,
            SPEC: self.digest,
            IMAGE_ID: self.image_id,
            PORTS: ",".join(map(str, self.ports)),
            SETTLED: json.dumps({name: getattr(self, name) for name in IN_PLACE}),
            LIVE: ",".join(path for path, _ in self.live),
            RUNS: self.runs,
            **({READS: self.reads} if self.reads else {}),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ContainerSpec:
        """Return the spec that :meth:`document` wrote.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is of another kind.
        """
        given = {"user": "", "groups": (), "reads": "", "after": (), "live": (), "runs": "", "content": "", **document}
        probe = dict(given["probe"])
        if "url" in probe:
            given["probe"] = HttpProbe(probe["url"], tuple(probe["contains"]), probe["deadline_s"])
        else:
            given["probe"] = FileProbe(**probe)
        given["env"] = tuple(sorted(given["env"].items()))
        given["mounts"] = tuple(Mount(**each) for each in given["mounts"])
        given["volumes"] = tuple(Volume(**each) for each in given["volumes"])
        for name in ("argv", "ports", "devices", "capabilities", "groups", "after"):
            given[name] = tuple(given[name])
        for name in ("tmpfs", "needs", "live"):
            given[name] = tuple(tuple(each) for each in given[name])
        return cls(**{each.name: given[each.name] for each in fields(cls)})

    def document(self) -> dict[str, Any]:
        """Return the spec as JSON values, for plans."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        document["env"] = dict(self.env)
        document["digest"] = self.digest
        document["docker"] = docker_line(self)
        return document


def restart_text(policy: str, attempts: int) -> str:
    """Return a restart policy as docker writes it."""
    return f"{policy}:{attempts}" if attempts else policy


def docker_line(spec: ContainerSpec) -> str:
    """Return the line a person would type to start the same container, or to create it where it needs files first."""
    verb = ["create"] if spec.live else ["run", "--detach"]
    line = ["docker", "-H", spec.engine, *verb, "--name", spec.name, "--network", "host", "--init"]
    line += ["--restart", restart_text(spec.restart, spec.restart_attempts), "--stop-timeout", str(spec.stop_seconds)]
    line += ["--shm-size", f"{spec.shm_mb}m"]
    if spec.privileged:
        line.append("--privileged")
    else:
        line += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    if spec.user:
        line += ["--user", spec.user]
    for group in spec.groups:
        line += ["--group-add", str(group)]
    for capability in spec.capabilities:
        line += ["--cap-add", capability]
    for name, value in spec.env:
        line += ["--env", f"{name}={value}"]
    for mount in spec.mounts:
        read_only = ",readonly" if mount.read_only else ""
        line += ["--mount", f"type=bind,source={mount.source},target={mount.target}{read_only}"]
    for volume in spec.volumes:
        line += ["--mount", f"type=volume,source={volume.name},target={volume.target}"]
    for target, options in spec.tmpfs:
        line += ["--tmpfs", f"{target}:{options}"]
    for device in spec.devices:
        line += ["--device", device]
    for name, value in sorted(spec.labels.items()):
        line += ["--label", f"{name}={value}"]
    return shlex.join([*line, spec.image, *spec.argv])
