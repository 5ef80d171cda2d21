"""Layers made on an engine: found by their inputs digest, imported from an archive or built from a context."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound

from yrpd.building.context import Context
from yrpd.building.engine import StreamResult, read_stream
from yrpd.building.layers import DIGEST_LABEL, Layer
from yrpd.errors import ImageError
from yrpd.reporting import Reporter

_STAGE = re.compile(r"^ ---> ([0-9a-f]{12})$")


def _quoted(text: str) -> str:
    """Return text as a Dockerfile's double-quoted word, in which ``$`` would be a variable."""
    return json.dumps(text, ensure_ascii=False).replace("$", "\\$")


class Imaging:
    """Makes layers on one engine, and remembers nothing.

    Args:
        client: The engine.
        reporter: Says what is done; the engine's lines are details.
        log: Gets every line of the engine's.
    """

    def __init__(self, client: docker.DockerClient, reporter: Reporter, log: Path) -> None:
        self.client = client
        self.reporter = reporter
        self.log = log

    def find(self, layer: Layer) -> str:
        """Return the id of the image with the layer's inputs digest and tag, empty when the engine has none."""
        try:
            image = self.client.images.get(layer.image)
        except ImageNotFound:
            return ""
        return str(image.id) if image.labels.get(DIGEST_LABEL) == layer.digest else ""

    def import_root(self, layer: Layer, archive: Path) -> str:
        """Make an image of one tar archive and return its id.

        Raises:
            ImageError: The engine refuses.
        """
        changes = [f"LABEL {_quoted(key)}={_quoted(value)}" for key, value in layer.all_labels.items()]
        changes += ['CMD ["/bin/sh"]']

        def post() -> Iterator[dict[str, Any]]:
            # Not the SDK's variant for streams: it announces chunks and then sends none.
            answer = self.client.api.import_image_from_file(
                str(archive), repository=layer.repository, tag=layer.tag, changes=changes
            )
            yield from (json.loads(line) for line in str(answer).splitlines() if line.strip())

        self._read(post, f"importing {layer.image}")
        return self._id_of(layer)

    def build(self, layer: Layer, context: Context, dockerfile: str, arguments: dict[str, str]) -> str:
        """Build a layer without a network, and return the image's id.

        The images of the stages are removed afterwards, also when the build fails, so that no half-made image stays.

        Args:
            layer: Name, tag, labels.
            context: What is sent.
            dockerfile: The Dockerfile's name in the context.
            arguments: Build arguments.

        Raises:
            ImageError: A step failed, or the engine went away; the log is named.
        """
        stages: list[str] = []

        def post() -> Iterator[dict[str, Any]]:
            yield from self.client.api.build(
                fileobj=cast(Any, context.chunks()),  # requests sends any iterator, in chunks
                custom_context=True,
                dockerfile=dockerfile,
                tag=layer.image,
                labels=layer.all_labels,
                buildargs=arguments,
                network_mode="none",
                rm=True,
                forcerm=True,
                decode=True,
            )

        try:
            result = self._read(post, f"building {layer.image}", stages)
        finally:
            self._remove_dangling(stages)
        return result.image_id or self._id_of(layer)

    def _read(
        self, post: Callable[[], Iterator[dict[str, Any]]], what: str, stages: list[str] | None = None
    ) -> StreamResult:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(f"== {what} ==\n")

            def line(text: str) -> None:
                stream.write(f"[{time.monotonic() - start:7.1f}] {text}\n")
                self.reporter.detail(text)
                found = _STAGE.match(text)
                if found and stages is not None:
                    stages.append(found[1])

            return read_stream(post(), line, what=what, log=str(self.log))

    def _id_of(self, layer: Layer) -> str:
        try:
            return str(self.client.images.get(layer.image).id)
        except (DockerException, requests.RequestException) as error:
            raise ImageError(
                f"{layer.image} is not on the engine after it was made: {error}", next_command="docker images"
            ) from error

    def _remove_dangling(self, stages: list[str]) -> None:
        """Remove images of this build that no tag leads to; an image that something needs stays."""
        for stage in reversed(dict.fromkeys(stages)):
            try:
                if not self.client.images.get(stage).tags:
                    self.client.images.remove(stage)
            except (APIError, DockerException, requests.RequestException):
                # Gone with its child already, or the parent of a tagged image: both are as wanted.
                continue
