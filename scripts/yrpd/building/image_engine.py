"""Images on an engine: found, assembled, built by its classic builder, which every engine has, pulled, resolved."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import requests

from yrpd.building.assembly import Part, Settings, image_archive
from yrpd.building.context import Context
from yrpd.building.layers import Layer
from yrpd.docker.connection import by_manifest, read_stream
from yrpd.docker.sdk import APIError, DockerClient, DockerException, ImageNotFound, parse_repository_tag
from yrpd.documents.inputs import DIGEST_LABEL
from yrpd.errors import ImageError
from yrpd.reporting import Reporter

_STAGE = re.compile(r"^ ---> ([0-9a-f]{12})$")


def _quoted(text: str) -> str:
    """Return text as a Dockerfile's double-quoted word, in which ``$`` would be a variable."""
    return json.dumps(text, ensure_ascii=False).replace("$", "\\$")


def labelled(context: Context, dockerfile: str, labels: dict[str, str]) -> Context:
    """Return the context with all labels as one last instruction: the engine's own way costs a step for each."""
    text = b"".join(context.content(dockerfile)).decode("utf-8").rstrip("\n")
    words = " ".join(f"{_quoted(key)}={_quoted(value)}" for key, value in sorted(labels.items()))
    complete = Context(dict(context.entries))
    complete.add_bytes(dockerfile, f"{text}\nLABEL {words}\n".encode())
    return complete


class ImageEngine:
    """Works on one engine, and remembers nothing.

    Args:
        client: The engine.
        reporter: Says what is done; the engine's lines are details.
        log: Gets every line of the engine's.
    """

    def __init__(self, client: DockerClient, reporter: Reporter, log: Path) -> None:
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

    def assemble(
        self, layer: Layer, parts: Sequence[Part], environment: Mapping[str, str], below: Layer | None = None
    ) -> str:
        """Make an image of layers that are archives, and return its id.

        Args:
            layer: Name, tag, labels.
            parts: All of its layers, the lowest first.
            environment: What containers start with.
            below: An image of all but the last layer; what the engine has of it is not sent.

        Raises:
            ImageError: The engine refuses, or went away.
        """
        lower = self._layers_of(below) if below else ()
        there = lower if len(lower) == len(parts) - 1 else ()
        settings = Settings(layer.all_labels, environment)

        def post() -> Iterator[dict[str, Any]]:
            # The stubs know files only; the library hands an iterator to requests, which sends it in chunks.
            load_image: Any = self.client.api.load_image
            yield from load_image(image_archive(layer.image, parts, there, settings))

        self._read(post, f"loading {layer.image}")
        return self._id_of(layer.image)

    def _layers_of(self, layer: Layer) -> tuple[str, ...]:
        """Return the DiffIDs of an image, where the engine finds layers by them."""
        if by_manifest(self.client) or not self.find(layer):
            return ()
        return tuple(self.client.images.get(layer.image).attrs["RootFS"]["Layers"])

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
        complete = labelled(context, dockerfile, layer.all_labels)

        def post() -> Iterator[dict[str, Any]]:
            yield from self.client.api.build(
                fileobj=cast(Any, complete.chunks()),  # requests sends any iterator, in chunks
                custom_context=True,
                dockerfile=dockerfile,
                tag=layer.image,
                buildargs=arguments,
                network_mode="none",
                rm=True,
                forcerm=True,
                # A second build of the same layer must not stand on stages that this one takes away at its end.
                nocache=True,
                # Without it the library waits for ever, whatever its client was told.
                timeout=self.client.api.timeout,
                decode=True,
            )

        try:
            self._read(post, f"building {layer.image}", stages=stages)
        finally:
            self._remove_dangling(stages)
        return self._id_of(layer.image)

    def pull(self, reference: str) -> str:
        """Fetch an image from its registry and return its id.

        Raises:
            ImageError: The registry or the engine refuses, or the stream carries an error.
        """
        repository, tag = parse_repository_tag(reference)  # the tag may also be a digest

        def post() -> Iterator[dict[str, Any]]:
            yield from self.client.api.pull(repository, tag=tag or "latest", stream=True, decode=True)

        self._read(post, f"pulling {reference}")
        return self._id_of(reference)

    def resolve(self, reference: str) -> str:
        """Return the digest that the registry has for a name now; nothing is fetched.

        Raises:
            ImageError: The engine cannot reach the registry, or the registry has no such image.
        """
        try:
            ask: Any = self.client.api.inspect_distribution  # the stubs have no types for it
            answer = ask(reference)
            return str(answer["Descriptor"]["digest"])
        except (DockerException, requests.RequestException, KeyError) as error:
            why = error.explanation if isinstance(error, APIError) else error
            message = f"The registry of {reference} gave no digest for it: {why}."
            raise ImageError(message, next_command=f"docker manifest inspect {reference}") from error

    def _read(
        self, post: Callable[[], Iterator[dict[str, Any]]], what: str, *, stages: list[str] | None = None
    ) -> None:
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

            read_stream(post(), line, what=what, log=str(self.log))

    def _id_of(self, reference: str) -> str:
        try:
            return str(self.client.images.get(reference).id)
        except (DockerException, requests.RequestException) as error:
            message = f"{reference} is not on the engine after it was made: {error}"
            raise ImageError(message, next_command="docker images") from error

    def _remove_dangling(self, stages: list[str]) -> None:
        """Remove images of this build that no tag leads to; an image that something needs stays."""
        for stage in reversed(dict.fromkeys(stages)):
            try:
                if not self.client.images.get(stage).tags:
                    self.client.images.remove(stage)
            except DockerException:
                # Gone with its child already, or the parent of a tagged image: both are as wanted.
                continue
            except requests.RequestException:
                # An engine that is gone would keep every one of these calls waiting.
                return
