"""Looks at a model folder on a host: is it there, and which model is it."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from yrpd.deploying.inventory import Host
from yrpd.docker.sdk import APIError, Container, DockerClient, Mount, NotFound

CONFIG = "config.json"
EMPTY_TAR = b"\0" * 1024
EMPTY_IMAGE = "yrpd-looks-at-folders"
LOOK_AT = "/seen"


def is_local(host: Host) -> bool:
    """Return whether the host's file system is this machine's."""
    return host.engine.startswith("unix://")


def problems(client: DockerClient, folder: str, mounts: tuple[str, ...]) -> list[str]:
    """Return what is wrong with the model folder and the other mounts of a host, as its engine sees them.

    An empty ``folder`` is not looked at.

    A container is created from an empty image, never started, and removed: creating it makes the engine look.
    """
    found = []
    if folder:
        with _looking(client, folder) as container:
            if container is None:
                found.append(f"the model folder {folder} does not exist")
            elif read_file(container, f"{LOOK_AT}/{CONFIG}") is None:
                found.append(f"the model folder {folder} has no {CONFIG}")
    return found + [f"{path} does not exist" for path in mounts if not _can_mount(client, path)]


def read_file(container: Container, path: str, links: int = 8) -> bytes | None:
    """Return a small file of a container, started or not; ``None`` when it is not there, or behind too many links."""
    try:
        stream, _ = container.get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            member = archive.next()
            if member and member.issym() and links:
                return read_file(container, posixpath.join(posixpath.dirname(path), member.linkname), links - 1)
            extracted = archive.extractfile(member) if member and member.isfile() else None
            return extracted.read() if extracted else None
    except (NotFound, tarfile.TarError):
        return None


def read_config(client: DockerClient, folder: str) -> dict[str, Any]:
    """Return a host's model's ``config.json``, as its engine sees it now; empty when it cannot be read."""
    with _looking(client, folder) as container:
        content = read_file(container, f"{LOOK_AT}/{CONFIG}") if container else None
    if content is None:
        return {}
    try:
        loaded = json.loads(content)
    except ValueError:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _can_mount(client: DockerClient, path: str) -> bool:
    with _looking(client, path) as container:
        return container is not None


@contextmanager
def _looking(client: DockerClient, path: str) -> Iterator[Container | None]:
    client.api.import_image_from_data(EMPTY_TAR, repository=EMPTY_IMAGE, tag="empty")
    try:
        try:
            container = client.containers.create(
                f"{EMPTY_IMAGE}:empty", ["/nothing"], mounts=[Mount(LOOK_AT, path, type="bind", read_only=True)]
            )
        except APIError as error:
            if "does not exist" not in str(error.explanation):
                raise
            yield None
            return
        try:
            yield container
        finally:
            container.remove(force=True, v=True)
    finally:
        client.images.remove(f"{EMPTY_IMAGE}:empty", force=True)
