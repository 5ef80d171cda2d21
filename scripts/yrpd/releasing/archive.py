"""Image archives as ``docker save`` writes them, read once from front to back and hashed.

What an archive declares is compared with what it holds: the image's id is the sha256 of its configuration, which names
the sha256 of every layer (OCI image specification, ``rootfs.diff_ids``). Engines with the containerd image store save
layers gzipped, as they keep them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, cast

from yrpd.documents.manifest import Config, TarballLayer, config_of
from yrpd.documents.release_folder import CHUNK
from yrpd.errors import ImageError

INDEX = "manifest.json"
# An image's configuration has some kilobytes; layers that are smaller than this are just kept too.
KEPT_BYTES = 4 << 20
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class ArchiveFacts:
    """What an archive holds.

    Attributes:
        image_id: sha256 of the configuration.
        tags: The names that a load would give.
        layers: The layers as they are, lowest first.
        config: What containers start with.
        bytes: Length of the archive.
    """

    image_id: str
    tags: tuple[str, ...]
    layers: tuple[TarballLayer, ...]
    config: Config
    bytes: int

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The layers' DiffIDs, as hashed."""
        return tuple(one.diff_id for one in self.layers)


class ChunkReader(io.RawIOBase):
    """A file over an iterator of chunks; for ``tarfile``'s streams, which read on after a short answer.

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


def read_archive(stream: ChunkReader, *, what: str = "the image archive") -> ArchiveFacts:
    """Read an archive to its end.

    Args:
        stream: The archive, not compressed.
        what: Name of the archive, for messages.

    Raises:
        ImageError: It breaks off, or is no image archive.
    """
    members: dict[str, TarballLayer] = {}
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
                    members[info.name] = TarballLayer(diff_id=_diff_id(source), member=info.name, bytes=info.size)
        stream.drain()
        return _facts(members, links, small, stream.count)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError(f"{what} breaks off or is damaged: {error}.", next_command="invoke image.save") from error
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        message = f"{what} is no image archive, or lacks a part: {error}."
        raise ImageError(message, next_command="invoke image.save") from error


def _diff_id(source: IO[bytes]) -> str:
    reader = io.BufferedReader(cast(Any, source))
    plain = gzip.GzipFile(fileobj=reader) if reader.peek(len(GZIP)).startswith(GZIP) else reader
    return f"sha256:{hashlib.file_digest(cast(Any, plain), 'sha256').hexdigest()}"


def _facts(members: dict[str, TarballLayer], links: dict[str, str], small: dict[str, bytes], size: int) -> ArchiveFacts:
    (index,) = json.loads(small[INDEX])
    configuration = small[index["Config"]]
    return ArchiveFacts(
        image_id=f"sha256:{hashlib.sha256(configuration).hexdigest()}",
        tags=tuple(index.get("RepoTags") or ()),
        layers=tuple(members[links.get(name, name)] for name in index["Layers"]),
        config=config_of(json.loads(configuration).get("config") or {}),
        bytes=size,
    )
