"""What an image is made from, as data: inputs, their digest, tags, labels, and why a new image is needed.

Pure functions; nothing here talks to an engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yrpd.documents.inputs import DIGEST_LABEL, INPUTS_LABEL, LAYER_LABEL, digest_of


@dataclass(frozen=True)
class Layer:
    """One image of the stack that an image is built in.

    Attributes:
        name: ``base``, ``runtime``, ``cpu`` or ``npu``.
        repository: Image repository.
        tag_prefix: What stands before the digest in the tag; empty or ends with ``-``.
        inputs: Everything that goes in, name to value or digest.
        labels: Further labels.
    """

    name: str
    repository: str
    tag_prefix: str
    inputs: Mapping[str, str]
    labels: Mapping[str, str]

    @property
    def digest(self) -> str:
        """The sha256 over the inputs."""
        return digest_of(dict(self.inputs))

    @property
    def tag(self) -> str:
        """The tag within the repository."""
        return f"{self.tag_prefix}{self.digest[:12]}"

    @property
    def image(self) -> str:
        """The image's name with its tag."""
        return f"{self.repository}:{self.tag}"

    @property
    def all_labels(self) -> dict[str, str]:
        """Every label: those given, and what the image was made from."""
        own = {
            LAYER_LABEL: self.name,
            DIGEST_LABEL: self.digest,
            INPUTS_LABEL: json.dumps(dict(self.inputs), sort_keys=True, separators=(",", ":")),
        }
        return {**self.labels, **own}


def explain(previous: Mapping[str, Any] | None, current: Mapping[str, str]) -> list[str]:
    """Say what changed between two inputs, one sentence each.

    Args:
        previous: Inputs of the image that was made before; ``None`` when there is none.
        current: Inputs of the image to make.
    """
    if previous is None:
        return ["no image was made from this checkout before"]
    reasons = []
    for name in sorted(set(previous) | set(current)):
        old, new = previous.get(name), current.get(name)
        if old != new:
            reasons.append(f"{name} changed: {_short(old)} -> {_short(new)}")
    return reasons or ["the inputs are the same, but the engine does not have the image"]


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = str(value)
    is_digest = len(text) in (40, 64) and all(character in "0123456789abcdef" for character in text)
    return text[:12] if is_digest else text


def tag_version(version: str) -> str:
    """Return a version as it may stand in a tag, which has no ``+``."""
    return version.replace("+", "-")
