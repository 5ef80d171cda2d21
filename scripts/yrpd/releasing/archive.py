"""Image archives as ``docker save`` writes them, read once from front to back and hashed.

Docker from 25 on writes the same index into an OCI image layout; tools without Docker write the layout alone.

What an archive declares is compared with what it holds: the image's id is the sha256 of its configuration, which names
the sha256 of every layer (OCI image specification, ``rootfs.diff_ids``). Layers may be gzipped, as newer engines do.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from yrpd.documents.manifest import Config, config_of
from yrpd.documents.release_folder import CHUNK
from yrpd.errors import ImageError
from yrpd.releasing.trees import EXECUTABLE, LINK, REGULAR, TreeFile, blob_id

INDEX = "manifest.json"
OCI_INDEX = "index.json"
CONTAINERD_NAME = "io.containerd.image.name"
# An image's configuration has some kilobytes; layers that are smaller than this are just kept too.
KEPT_BYTES = 4 << 20
GZIP = b"\x1f\x8b"
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True)
class ArchivedLayer:
    """One layer: its DiffID, the archive's member that holds it, and its size there."""

    diff_id: str
    member: str
    bytes: int


@dataclass(frozen=True)
class ArchiveFacts:
    """What an archive holds.

    Attributes:
        image_id: sha256 of the configuration.
        tags: The names that a load would give.
        layers: The layers as they are, lowest first.
        declared: The DiffIDs that the configuration names.
        config: What containers start with.
        files: Files below the folder that was asked for, as the top of all layers shows them.
        bytes: Length of the archive.
    """

    image_id: str
    tags: tuple[str, ...]
    layers: tuple[ArchivedLayer, ...]
    declared: tuple[str, ...]
    config: Config
    files: dict[str, TreeFile]
    bytes: int

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The layers' DiffIDs, as hashed."""
        return tuple(one.diff_id for one in self.layers)


class ChunkReader(io.RawIOBase):
    """A file over an iterator of chunks.

    Args:
        chunks: The content.
        seen: Called with every chunk as it passes.
    """

    def __init__(self, chunks: Iterable[bytes], seen: Callable[[bytes], object] = lambda _: None) -> None:
        self._chunks = iter(chunks)
        self._seen = seen
        self._left = b""
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, fewer when the next chunk is shorter, none at the end."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._seen(chunk)
            self.count += len(chunk)
            self._left = chunk
        given, self._left = (self._left, b"") if size < 0 else (self._left[:size], self._left[size:])
        return given

    def drain(self) -> None:
        """Read to the end."""
        while self.read(CHUNK):
            pass


@dataclass
class _Change:
    """What one layer does to the folder that was asked for: files put, paths taken away from layers below."""

    files: dict[str, TreeFile] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)


@dataclass
class _Member:
    sha256: str
    bytes: int
    change: _Change


class _Hashing(io.RawIOBase):
    """A reader that hashes what passes."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.sha256.update(data)
        return data


def read_archive(stream: ChunkReader, *, folder: str = "", what: str = "the image archive") -> ArchiveFacts:
    """Read an archive to its end.

    Args:
        stream: The archive, not compressed.
        folder: List the files below this folder of the image, relative to its root.
        what: Name of the archive, for messages.

    Raises:
        ImageError: It breaks off, or is no image archive.
    """
    members: dict[str, _Member] = {}
    links: dict[str, str] = {}
    small: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=CHUNK) as outer:
            for info in outer:
                if info.issym() or info.islnk():
                    near = posixpath.dirname(info.name) if info.issym() else ""
                    links[info.name] = posixpath.normpath(posixpath.join(near, info.linkname))
                elif info.isfile():
                    source = cast(IO[bytes], outer.extractfile(info))
                    if info.size < KEPT_BYTES:
                        small[info.name] = source.read()
                        source = io.BytesIO(small[info.name])
                    members[info.name] = _read_member(source, info.size, folder)
        stream.drain()
        return _facts(members, links, small, stream.count)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError(f"{what} breaks off or is damaged: {error}.", next_command="invoke image.save") from error
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise ImageError(
            f"{what} is no image archive, or lacks a part: {error}.", next_command="invoke image.save"
        ) from error


def _facts(members: dict[str, _Member], links: dict[str, str], small: dict[str, bytes], size: int) -> ArchiveFacts:
    index = _index(small)
    configuration = small[index["Config"]]
    parsed: dict[str, Any] = json.loads(configuration)
    files: dict[str, TreeFile] = {}
    layers = []
    for name in index["Layers"]:
        member = links.get(name, name)
        found = members[member]
        layers.append(ArchivedLayer(f"sha256:{found.sha256}", member, found.bytes))
        for path in found.change.gone:
            files = {key: one for key, one in files.items() if not _is_below(key, path)}
        files.update(found.change.files)
    return ArchiveFacts(
        image_id=f"sha256:{hashlib.sha256(configuration).hexdigest()}",
        tags=tuple(index.get("RepoTags") or ()),
        layers=tuple(layers),
        declared=tuple(parsed["rootfs"]["diff_ids"]),
        config=config_of(parsed.get("config") or {}),
        files=files,
        bytes=size,
    )


def _index(small: dict[str, bytes]) -> dict[str, Any]:
    """Return which members are the configuration and the layers, and the names.

    An archive without Docker's own index is an OCI image layout (OCI image specification, ``image-layout.md``).
    """
    if INDEX in small:
        (index,) = json.loads(small[INDEX])
        return dict(index)
    (described,) = json.loads(small[OCI_INDEX])["manifests"]
    manifest = json.loads(small[_blob(described)])
    name = (described.get("annotations") or {}).get(CONTAINERD_NAME)
    layers = [_blob(one) for one in manifest["layers"]]
    return {"Config": _blob(manifest["config"]), "Layers": layers, "RepoTags": [name] if name else []}


def _blob(descriptor: dict[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")


def _is_below(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}/")


def _read_member(source: IO[bytes], size: int, folder: str) -> _Member:
    start = source.read(len(GZIP))
    whole: IO[bytes] = cast(IO[bytes], _Joined(start, source))
    plain = cast(IO[bytes], gzip.GzipFile(fileobj=whole)) if start == GZIP else whole
    hashing = _Hashing(plain)
    change = _Change()
    if folder:
        try:
            with tarfile.open(fileobj=cast(IO[bytes], hashing), mode="r|", bufsize=CHUNK) as layer:
                change = _read_layer(layer, folder)
        except tarfile.ReadError:
            # Not a layer: a configuration or an index.
            change = _Change()
    while hashing.read(CHUNK):
        pass
    return _Member(hashing.sha256.hexdigest(), size, change)


class _Joined(io.RawIOBase):
    """A few bytes that were read already, then the rest of their file."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        self._start, self._rest = start, rest

    def read(self, size: int = -1) -> bytes:
        if self._start:
            given, self._start = self._start, b""
            return given + self._rest.read(max(0, size - len(given)) if size >= 0 else -1)
        return self._rest.read(size)


def _read_layer(layer: tarfile.TarFile, folder: str) -> _Change:
    change = _Change()
    blobs = walk_files(layer, folder, change.gone.append)
    change.files.update(blobs)
    return change


def walk_files(
    tar: tarfile.TarFile, folder: str, removed: Callable[[str], object] = lambda _: None
) -> Iterator[tuple[str, TreeFile]]:
    """Yield the files below a folder as git would see them, by their path relative to it.

    Args:
        tar: The archive, read as a stream.
        folder: The folder, relative to the archive's root.
        removed: Called with paths that a layer takes away from those below it; empty means all of the folder.
    """
    seen: dict[str, str] = {}
    for info in tar:
        path = info.name.removeprefix("./").strip("/")
        base = posixpath.basename(path)
        if base.startswith(WHITEOUT):
            target = posixpath.dirname(path) if base == OPAQUE else posixpath.join(posixpath.dirname(path), base[4:])
            if target == folder or folder.startswith(f"{target}/") or not target:
                removed("")
            elif target.startswith(f"{folder}/"):
                removed(target[len(folder) + 1 :])
            continue
        if not path.startswith(f"{folder}/"):
            continue
        name = path[len(folder) + 1 :]
        if info.issym():
            yield name, TreeFile(LINK, blob_id(info.linkname.encode()))
        elif info.isfile():
            seen[path] = blob_id(cast(IO[bytes], tar.extractfile(info)).read())
            yield name, TreeFile(EXECUTABLE if info.mode & 0o100 else REGULAR, seen[path])
        elif info.islnk() and info.linkname.strip("/") in seen:
            seen[path] = seen[info.linkname.strip("/")]
            yield name, TreeFile(EXECUTABLE if info.mode & 0o100 else REGULAR, seen[path])
