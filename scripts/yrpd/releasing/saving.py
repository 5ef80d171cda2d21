"""``image.save``: the image into the release folder, compressed and hashed while it is read from the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from yrpd.docker.failures import engine_failures
from yrpd.docker.sdk import DockerClient
from yrpd.documents.manifest import Manifest, Tarball, read_manifest
from yrpd.documents.release_folder import (
    CHECKSUMS,
    MANIFEST,
    PROVENANCE,
    SBOM,
    TARBALL,
    ReleaseFolder,
    parse_checksums,
    replacing,
    update_folder,
)
from yrpd.errors import ImageError
from yrpd.project import hash_file
from yrpd.releasing.archive import ArchiveFacts, ChunkReader, read_archive
from yrpd.releasing.provenance import render_provenance
from yrpd.reporting import Reporter

# The fastest level already halves an image, and writing less is quicker than writing more.
LEVEL = 1
# The number of threads does not change the output, whether there are any does.
THREADS = 2
READ_BYTES = 4 << 20


class _HashingFile:
    """A file that hashes what is written to it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        return self._stream.write(data)


def save(client: DockerClient, folder: ReleaseFolder, reporter: Reporter) -> Manifest:
    """Write the image's archive into the release folder, and the manifest, provenance and checksums that name it.

    Args:
        client: The engine that has the image.
        folder: The release.
        reporter: Shows progress.

    Raises:
        ImageError: The engine does not have it, broke off or gave something else, the disk is full, or the release is
            signed. Nothing of the new archive is left, and the folder is as it was.
    """
    manifest = read_manifest(folder)
    if _is_saved(folder, manifest):
        reporter.say(f"    kept {folder.tarball.name}: it is the image's")
        return manifest
    folder.require_unsigned()
    title = f"save {manifest.image} to dist/{folder.name}/{TARBALL}"
    with reporter.step(title), reporter.progress(title, manifest.size_bytes, in_bytes=True) as advance:
        with replacing(folder.tarball) as scratch:
            facts, digest, size = _write(client, manifest, scratch, advance)
            _require_same(facts, manifest)
        tarball = Tarball(file=TARBALL, sha256=digest, bytes=size, bytes_unpacked=facts.bytes, layers=facts.layers)
        return record(folder, manifest.model_copy(update={"tarball": tarball}))


def record(folder: ReleaseFolder, manifest: Manifest) -> Manifest:
    """Write a manifest with something added, and what depends on it.

    Raises:
        ImageError: The release is signed.
    """
    dependent = {MANIFEST: manifest.render(), PROVENANCE: render_provenance(manifest, folder.read(SBOM))}
    known = {manifest.tarball.file: manifest.tarball.sha256} if manifest.tarball else {}
    update_folder(folder.path, dependent, known)
    return manifest


def _is_saved(folder: ReleaseFolder, manifest: Manifest) -> bool:
    """Return whether the tarball of the manifest is there and recorded to the end; only verify reads all of it."""
    saved, sums = manifest.tarball, parse_checksums(folder.read(CHECKSUMS).decode())
    if saved is None or not folder.tarball.exists() or folder.tarball.stat().st_size != saved.bytes:
        return False
    return (sums.get(TARBALL), sums.get(MANIFEST)) == (saved.sha256, hash_file(folder.path / MANIFEST))


def _write(client: DockerClient, manifest: Manifest, path: Path, advance: Any) -> tuple[ArchiveFacts, str, int]:
    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=THREADS, write_checksum=True)
    with path.open("wb") as stream, engine_failures(f"saving {manifest.image}"):
        target = _HashingFile(stream)
        with compressor.stream_writer(target, closefd=False) as compressed:  # type: ignore[arg-type]

            def seen(chunk: bytes) -> None:
                compressed.write(chunk)
                advance(len(chunk))

            facts = read_archive(ChunkReader(archive_chunks(client, manifest), seen), what="what the engine sent")
        return facts, target.sha256.hexdigest(), target.bytes


def archive_chunks(client: DockerClient, manifest: Manifest) -> Iterator[bytes]:
    """Yield an image's archive from an engine, with its name in it.

    Raises:
        ImageError: Another image has the name now.
    """
    if client.images.get(manifest.image).id != manifest.id:
        message = f"{manifest.image} is not the image of this release any more: the release has {manifest.id}."
        raise ImageError(message, next_command="invoke image")
    # By name: by id alone the archive would not carry it. Not the SDK's own call: it takes the socket's timeout
    # away, and an engine that hangs would hang this too.
    address = f"{client.api.base_url}/v{client.api.api_version}/images/{manifest.image}/get"
    with client.api.get(address, stream=True, timeout=client.api.timeout) as answer:
        answer.raise_for_status()
        yield from answer.iter_content(READ_BYTES)


def _require_same(facts: ArchiveFacts, manifest: Manifest) -> None:
    if facts.diff_ids != manifest.diff_ids or facts.config != manifest.config:
        message = f"What the engine sent is not {manifest.image}: layers or configuration differ from {MANIFEST}."
        raise ImageError(message, next_command="invoke image")
