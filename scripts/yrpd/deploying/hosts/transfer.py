"""Brings an image to hosts that do not have it: one engine saves, the other loads, nothing is written in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Full, Queue
from threading import Event
from typing import Any, cast

from yrpd.deploying.hosts.engines import connect
from yrpd.deploying.inventory import Host
from yrpd.docker.images import find
from yrpd.docker.sdk import DockerClient, DockerException, Image
from yrpd.documents.image_record import ImageRecord
from yrpd.errors import ImageError
from yrpd.reporting import Advance, Reporter

LOAD_TIMEOUT_S = 3600  # the engine answers only after it has unpacked everything
CHUNK = 4 << 20
QUEUED_CHUNKS = 4
PATIENCE_S = 0.5  # how often a slow reader is looked at for having gone


def image_on(client: DockerClient, image: ImageRecord) -> Image | None:
    """Return an engine's image when it is exactly this one, ``None`` when it does not have it."""
    return find(client, image.reference, image.id, image.content)


def image_bytes(image: Image) -> int:
    """Return an image's unpacked size."""
    return int(image.attrs.get("Size") or 0)


def move(source: DockerClient, hosts: Sequence[Host], image: ImageRecord, reporter: Reporter) -> None:
    """Copy an image from one engine to others, with its name, and make sure that it is the same image there.

    The image is read once, however many hosts get it.

    Args:
        source: The engine that has it.
        hosts: The hosts that get it.
        image: Which image.
        reporter: Shows progress.

    Raises:
        ImageError: It did not arrive, or what arrived is something else.
    """
    names = ", ".join(host.name for host in hosts)
    title = f"moving {image.reference} to {names}"
    try:
        found = image_on(source, image)
        if found is None:
            raise ImageError(f"The engine has no {image.reference} ({image.id}).", next_command="invoke image")
        with reporter.step(title), reporter.progress(title, image_bytes(found), in_bytes=True) as advance:
            stream = found.save(chunk_size=CHUNK, named=image.reference)
            readers = [_Reader() for _ in hosts]
            with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
                loads = [pool.submit(_load, *pair, image) for pair in zip(hosts, readers, strict=True)]
                _distribute(stream, readers, advance)
                for load in loads:
                    load.result()
    except (DockerException, OSError) as error:
        message = f"{image.reference} could not be moved to {names}: {error}."
        raise ImageError(message, next_command=f"invoke image --flavour {image.flavour}") from error


class _Reader:
    """One of several readers of one stream; it may stop before the end without blocking the others."""

    def __init__(self) -> None:
        self.chunks: Queue[bytes | BaseException | None] = Queue(maxsize=QUEUED_CHUNKS)
        self.gone = Event()

    def give(self, chunk: bytes | BaseException | None) -> None:
        """Hand over a chunk, the end (``None``) or what went wrong; a reader that is gone gets nothing."""
        while not self.gone.is_set():
            try:
                self.chunks.put(chunk, timeout=PATIENCE_S)
            except Full:
                continue
            return

    def read(self) -> Iterator[bytes]:
        """Yield chunks to the end.

        Raises:
            OSError: The stream broke off.
        """
        while (chunk := self.chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise OSError(f"the image could not be read to its end: {chunk}")
            yield chunk


def _distribute(stream: Iterator[bytes], readers: Sequence[_Reader], advance: Advance) -> None:
    end: BaseException | None = None
    try:
        for chunk in stream:
            advance(len(chunk))
            for reader in readers:
                reader.give(chunk)
            if all(reader.gone.is_set() for reader in readers):
                break
    except BaseException as error:
        end = error
        raise
    finally:
        for reader in readers:
            reader.give(end)


def _load(host: Host, reader: _Reader, image: ImageRecord) -> None:
    try:
        target = connect(host, timeout_s=LOAD_TIMEOUT_S)
        try:
            # The stubs know files only; the library hands an iterator to requests, which sends it in chunks.
            target.images.load(cast(Any, reader.read()))
            arrived = image_on(target, image)
            if arrived is None:
                message = f"What arrived on {host.name} is not {image.reference} ({image.id})."
                raise ImageError(message, next_command=f"invoke image --flavour {image.flavour}")
            arrived.tag(image.reference)
        finally:
            target.close()
    finally:
        reader.gone.set()
