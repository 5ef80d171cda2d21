"""``image.push``: the release's image into a registry, and the digest that it has there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import requests

from yrpd.docker.connection import read_stream
from yrpd.docker.failures import engine_failures
from yrpd.docker.sdk import DockerClient, DockerException, ImageNotFound
from yrpd.documents.manifest import Manifest, Pushed, read_manifest
from yrpd.documents.release_folder import ReleaseFolder
from yrpd.errors import ConfigurationError, ImageError
from yrpd.releasing.saving import record
from yrpd.reporting import Reporter

# How Docker writes that a registry answered 500, 503, 507, ...
_SERVER_ERROR = "unexpected HTTP status: 5"


def push(client: DockerClient, folder: ReleaseFolder, repository: str, reporter: Reporter) -> tuple[Manifest, Pushed]:
    """Push the image under its own tag, and record the registry's digest in the release folder.

    Args:
        client: The engine that has the image.
        folder: The release.
        repository: Where to, without a tag: ``registry.example:5000/team/name``.
        reporter: Shows progress.

    Raises:
        ConfigurationError: The repository has a tag or digest.
        ImageError: The engine does not have the image, the registry refused, died or gave another digest, or the
            release is signed. The folder is as it was, and no name for that registry stays on the engine.
    """
    if "@" in repository or ":" in repository.rpartition("/")[2]:
        raise ConfigurationError(
            f"{repository!r} has a tag or digest; the release's own tag is used.",
            next_command=f"invoke image.push --to {repository.partition('@')[0].rpartition(':')[0]}",
        )
    manifest = read_manifest(folder)
    folder.require_unsigned()
    tag = manifest.image.rpartition(":")[2]
    target = f"{repository}:{tag}"
    with reporter.step(f"push {target}"):
        had = _has(client, target)
        try:
            digest = _push(client, manifest, repository, tag, reporter)
        except ImageError:
            if not had:
                _untag(client, target)
            raise
    pushed = Pushed(repository=repository, digest=digest)
    others = tuple(one for one in manifest.pushed if one.repository != repository)
    return record(folder, manifest.model_copy(update={"pushed": (*others, pushed)})), pushed


def _push(client: DockerClient, manifest: Manifest, repository: str, tag: str, reporter: Reporter) -> str:
    what = f"pushing {repository}:{tag}"

    def post() -> Iterator[dict[str, Any]]:
        yield from client.api.push(repository, tag=tag, stream=True, decode=True)

    with engine_failures(what):
        client.images.get(manifest.id).tag(repository, tag)
    try:
        digest = read_stream(post(), reporter.detail, what=what).image_id
    except ImageError as error:
        why = (
            " The registry failed; its log says why (often its disk is full)." if _SERVER_ERROR in error.message else ""
        )
        raise ImageError(
            f"{error.message}{why} Layers that arrived are not sent again.",
            next_command=f"invoke image.push --to {repository}   (when the registry works)",
            detail=error.detail,
        ) from error
    with engine_failures(what):
        # Asked of the registry itself: what it serves under this tag is what was sent.
        served = client.images.get_registry_data(f"{repository}:{tag}").id
    if not digest or served != digest:
        raise ImageError(
            f"{repository}:{tag} is {served} in the registry, and {digest or 'nothing'} was sent.",
            next_command=f"invoke image.push --to {repository}",
        )
    return digest


def _has(client: DockerClient, reference: str) -> bool:
    with engine_failures(f"asking for {reference}"):
        try:
            client.images.get(reference)
        except ImageNotFound:
            return False
        return True


def _untag(client: DockerClient, reference: str) -> None:
    try:
        client.images.remove(reference, noprune=True)
    except (DockerException, requests.RequestException):
        # The engine went away with its names, or never gave this one.
        return
