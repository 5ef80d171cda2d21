"""Which files P and D would load, as each host has them now: one fingerprint a container, whatever kind its engine is.

A folder that is mounted keeps the files that it had when its container was made, even if another one has its name now,
so a container that runs is no place to look from.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from requests import RequestException

from yrpd.deploying.hosts.containers import listed
from yrpd.deploying.preflight.findings import DENIED
from yrpd.deploying.preflight.host_survey import LOOK_S, answer, running
from yrpd.deploying.spec import ENGINES, ContainerSpec, Mount
from yrpd.docker.images import find
from yrpd.docker.sdk import DockerClient, DockerException, ImageNotFound
from yrpd.errors import EnvironmentFailure
from yrpd.serving.command_lines import SECRETS

# Reasons why a file cannot be read that stay; any other may pass, and is no other model.
LASTING = (*DENIED, os.strerror(errno.ENOENT))
DIGEST_LENGTH = 64

Files = Mapping[str, Sequence[Any]]


def fingerprinted(specs: Sequence[ContainerSpec], clients: Mapping[str, DockerClient]) -> tuple[ContainerSpec, ...]:
    """Return the specs with what P and D would read on their hosts; empty where that cannot be told.

    Args:
        specs: Containers.
        clients: Engines of the hosts that answer; all are looked at at the same time.
    """
    on_hosts: dict[str, list[ContainerSpec]] = {}
    for spec in specs:
        if spec.role in ENGINES and spec.host in clients:
            on_hosts.setdefault(spec.host, []).append(spec)
    with ThreadPoolExecutor(max_workers=max(1, min(32, len(on_hosts)))) as pool:
        answers = pool.map(lambda host: _read(clients[host], host, on_hosts[host]), on_hosts)
        read = dict(zip(on_hosts, answers, strict=True))

    def told(spec: ContainerSpec) -> ContainerSpec:
        files = read.get(spec.host, {})
        return replace(spec, reads=fingerprint({path: files.get(path, {}) for path in _loaded(spec)}))

    return tuple(told(spec) if spec.role in ENGINES else spec for spec in specs)


def fingerprint(folders: Mapping[str, Files]) -> str:
    """Return the identity of files; empty when a folder has none, or one cannot be read for the moment.

    Args:
        folders: Folder to its files: path to size and digest, or to the reason why it cannot be read.
    """
    told = [str(digest) for files in folders.values() for _, digest in files.values()]
    if not all(folders.values()) or any(len(each) != DIGEST_LENGTH and each not in LASTING for each in told):
        return ""
    return hashlib.sha256(json.dumps(folders, sort_keys=True).encode()).hexdigest()


def _loaded(spec: ContainerSpec) -> dict[str, Mount]:
    # A label or a plan with a digest of a secret would let anybody try out what the secret is.
    return {mount.target: mount for mount in spec.mounts if not mount.target.startswith(f"{SECRETS}/")}


def _read(client: DockerClient, host: str, specs: Sequence[ContainerSpec]) -> dict[str, Files]:
    """Return the files of all folders that some containers of a host mount; nothing when it cannot be looked at."""
    mounts = {target: mount for spec in specs for target, mount in _loaded(spec).items()}
    bare = replace(specs[0], mounts=tuple(mounts.values()), devices=(), groups=(), privileged=False)
    try:
        image = _image(client, host, specs[0])
        if not image:
            return {}
        with running(client, host, image, [bare], {"read": {"paths": sorted(mounts)}}) as container:
            return answer(container, host, LOOK_S)
    except (EnvironmentFailure, DockerException, RequestException):
        return {}


def _image(client: DockerClient, host: str, spec: ContainerSpec) -> str:
    """Return the engine's id of the image that will run, or of one that runs; empty when it has neither."""
    if found := find(client, spec.image, spec.image_id, spec.content):
        return str(found.id)
    for observed, container in listed(client, host, spec.deployment):
        if observed.role in ENGINES:
            with suppress(ImageNotFound):
                return str(client.images.get(str(container.attrs["Image"])).id)
    return ""
