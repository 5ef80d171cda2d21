"""``image.load``: the release's image onto an engine, from its tarball.

The tarball is proved before the engine gets a byte of it. Layers that the engine has already are not sent: it looks for
them by content (chain id) before it opens the archive.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import zstandard

from yrpd.docker.connection import by_manifest, read_stream
from yrpd.docker.failures import engine_failures
from yrpd.docker.images import is_same
from yrpd.docker.sdk import DockerClient, ImageNotFound
from yrpd.documents.manifest import Manifest, Tarball
from yrpd.documents.release_folder import CHUNK, ReleaseFolder
from yrpd.errors import ImageError
from yrpd.releasing.archive import ChunkReader
from yrpd.reporting import Reporter


@dataclass(frozen=True)
class Loaded:
    """What a load did.

    Attributes:
        state: ``loaded``, or ``unchanged`` when the engine had the image.
        moved_bytes: What was sent to the engine.
        kept_layers: Layers that it had already.
    """

    state: str
    moved_bytes: int
    kept_layers: int


def load(client: DockerClient, folder: ReleaseFolder, manifest: Manifest, reporter: Reporter) -> Loaded:
    """Load the release's tarball into an engine, and prove that it has exactly the release's image then.

    Args:
        client: The engine.
        folder: The release.
        manifest: Its manifest.
        reporter: Shows progress.

    Raises:
        ImageError: There is no tarball, it is not the release's, or the engine refused, broke off or was silent for too
            long. The image's name is given only to the release's image.
    """
    if holds(client, manifest):
        reporter.say(f"    kept {manifest.image}: the engine has it")
        return Loaded("unchanged", 0, len(manifest.diff_ids))
    with proved_tarball(folder, manifest) as (saved, stream):
        title = f"load {manifest.image}"
        with reporter.step(title), reporter.progress(title, saved.bytes_unpacked, in_bytes=True) as advance:
            return send(client, manifest, saved, stream, advance, reporter.detail)


@contextmanager
def proved_tarball(folder: ReleaseFolder, manifest: Manifest) -> Iterator[tuple[Tarball, IO[bytes]]]:
    """Open the release's tarball, and prove all of it, before any of it is used.

    Raises:
        ImageError: There is none, or it is not the release's.
    """
    saved = manifest.tarball
    if saved is None:
        raise ImageError(f"dist/{folder.name} has no tarball.", next_command="invoke image.save")
    try:
        stream = folder.tarball.open("rb")
    except OSError as error:
        raise ImageError(f"{folder.tarball}: {error.strerror}.", next_command="invoke image.save") from error
    with stream:
        _prove(stream, folder, saved)
        yield saved, stream


def send(
    client: DockerClient,
    manifest: Manifest,
    saved: Tarball,
    stream: IO[bytes],
    advance: Callable[[int], object],
    line: Callable[[str], None],
) -> Loaded:
    """Send a proved tarball to an engine, without the layers that it has, and prove what arrived.

    Args:
        client: The engine.
        manifest: The release.
        saved: The tarball, as the manifest has it.
        stream: The tarball.
        advance: Called with the bytes that were sent.
        line: Called with what the engine says.

    Raises:
        ImageError: The engine refused, broke off, was silent for too long, or has something else then.
    """
    there = common_layers(client, manifest)
    skipped = {one.member for one in saved.layers[:there]} - {one.member for one in saved.layers[there:]}
    moved = 0

    def chunks() -> Iterator[bytes]:
        nonlocal moved
        for chunk in archive(stream, skipped):
            moved += len(chunk)
            advance(len(chunk))
            yield chunk

    def post() -> Iterator[dict[str, Any]]:
        # The stubs know files only; the library hands an iterator to requests, which sends it in chunks.
        load_image: Any = client.api.load_image
        yield from load_image(chunks())

    read_stream(post(), line, what=f"loading {manifest.image}")
    require(client, manifest)
    return Loaded("loaded", moved, there)


def holds(client: DockerClient, manifest: Manifest) -> bool:
    """Return whether the engine has exactly the release's image under its name."""
    with engine_failures(f"asking for {manifest.image}"):
        try:
            found = client.images.get(manifest.image)
        except ImageNotFound:
            return False
        return is_same(client, found, manifest.id, manifest.content)


def require(client: DockerClient, manifest: Manifest) -> None:
    """Prove that the engine has the release's image now.

    Raises:
        ImageError: It has something else.
    """
    if not holds(client, manifest):
        message = f"What arrived is not {manifest.image} ({manifest.id})."
        raise ImageError(message, next_command=f"invoke image.verify --release {manifest.release}")


def common_layers(client: DockerClient, manifest: Manifest) -> int:
    """Return how many of the image's layers, from the lowest up, the engine has in one of its images."""
    with engine_failures("listing the engine's images"):
        if by_manifest(client):
            return 0
        best = 0
        for one in client.api.images(all=True):
            try:
                layers = client.images.get(one["Id"]).attrs["RootFS"].get("Layers") or []
            except ImageNotFound:  # removed by someone meanwhile
                continue
            same = 0
            for ours, theirs in zip(manifest.diff_ids, layers, strict=False):
                if ours != theirs:
                    break
                same += 1
            best = max(best, same)
        return best


def unpacked(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a tarball, which is compressed with zstd.

    Raises:
        ImageError: It is damaged, or none.
    """
    try:
        with zstandard.ZstdDecompressor().stream_reader(stream, read_size=CHUNK, closefd=False) as reader:
            while chunk := reader.read(CHUNK):
                yield chunk
    except zstandard.ZstdError as error:
        raise ImageError(f"The tarball is damaged: {error}.", next_command="invoke image.save") from error


def archive(stream: IO[bytes], skipped: set[str]) -> Iterator[bytes]:
    """Yield a compressed image archive unpacked, without some of its members."""
    if not skipped:
        yield from unpacked(stream)
        return
    with tarfile.open(fileobj=cast(IO[bytes], ChunkReader(unpacked(stream))), mode="r|", bufsize=CHUNK) as tar:
        for info in tar:
            if info.name in skipped:
                continue
            yield info.tobuf(tarfile.GNU_FORMAT)
            content = tar.extractfile(info) if info.isfile() else None
            while content is not None and (chunk := content.read(CHUNK)):
                yield chunk
            yield b"\0" * (-info.size % tarfile.BLOCKSIZE)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _prove(stream: IO[bytes], folder: ReleaseFolder, saved: Tarball) -> None:
    found = hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()
    stream.seek(0)
    if found != saved.sha256:
        raise ImageError(
            f"dist/{folder.name}/{saved.file} is not the release's: expected sha256 {saved.sha256}, found {found}.",
            next_command="invoke image.save   (after the file was removed)",
        )
