"""Finds an image on engines that name images in different ways.

An engine's id is the digest of the image's configuration, or with the containerd image store (the default of a fresh
Docker 29) that of its manifest or index; https://docs.docker.com/engine/storage/containerd/.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from yrpd.docker.connection import by_manifest
from yrpd.docker.sdk import DockerClient, Image, ImageNotFound

STARTS_WITH = ("Env", "Entrypoint", "Cmd", "WorkingDir", "User", "Labels")


def content_of(layers: Sequence[str], config: Mapping[str, Any]) -> str:
    """Return the identity of an image that is the same on all engines.

    Args:
        layers: sha256 of every layer's archive, lowest first.
        config: What containers start with, in the words of an image's configuration.
    """
    told = [list(layers), *(config.get(name) or None for name in STARTS_WITH)]
    return f"sha256:{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}"


def content_on(image: Image) -> str:
    """Return the same of an image that an engine has."""
    return content_of(image.attrs["RootFS"].get("Layers") or (), image.attrs["Config"] or {})


def is_same(client: DockerClient, image: Image, image_id: str, content: str) -> bool:
    """Return whether an engine's image is the one of an id and content; the id counts where it has the same meaning."""
    return content_on(image) == content and (image.id == image_id or by_manifest(client))


def find(client: DockerClient, reference: str, image_id: str, content: str) -> Image | None:
    """Return an image that an engine has, whatever its id is there; ``None`` when it does not have exactly this one.

    Args:
        client: The engine.
        reference: The image's name.
        image_id: Its id on the engine that built it.
        content: Its :func:`content_of`; empty where it is not known, and then the id alone counts.
    """
    for name in (image_id, reference):
        try:
            found = client.images.get(name)
        except ImageNotFound:
            continue
        if name == image_id or (content and content_on(found) == content):
            return found
    return None
