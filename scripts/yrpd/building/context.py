"""Build contexts: a tar stream of our own, the same bytes from every checkout.

Names are sorted, times are 0, owner and group are root, modes are 644 or 755. The digest is over names, modes and
content hashes, so it is known before a byte is sent, and a wheel's hash is taken from the lock instead of read again.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from yrpd.documents.inputs import digest_of
from yrpd.errors import BuildError

CHUNK = 1 << 20


def chunks_of(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what a stream holds, a chunk at a time."""
    while chunk := stream.read(CHUNK):
        yield chunk


@dataclass(frozen=True)
class Entry:
    """One file of a context.

    Attributes:
        sha256: Hash of the content.
        size: Bytes of the content.
        opener: Opens the content, which may be in memory, in a file of its own, or in a wheel.
        executable: Mode 755 instead of 644.
        link: Target, when the entry is a symbolic link.
    """

    sha256: str
    size: int = 0
    opener: Callable[[], IO[bytes]] = io.BytesIO
    executable: bool = False
    link: str = ""


@dataclass
class Context:
    """Files by their name in the context."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def add_bytes(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Add a file from memory."""
        self.entries[name] = Entry(hashlib.sha256(data).hexdigest(), len(data), partial(io.BytesIO, data), executable)

    def add_file(self, name: str, path: Path, *, sha256: str = "") -> None:
        """Add a file from disk.

        Args:
            name: Its name in the context.
            path: Where it is.
            sha256: Its hash when that is proved already.
        """
        if sha256:
            self.entries[name] = Entry(sha256, path.stat().st_size, lambda: path.open("rb"))
        else:
            self.add_bytes(name, path.read_bytes(), executable=bool(path.stat().st_mode & 0o100))

    def add_stream(self, name: str, size: int, opener: Callable[[], IO[bytes]], *, executable: bool = False) -> None:
        """Add a file that is read when it is sent, such as a member of a wheel. It has no hash before that."""
        self.entries[name] = Entry("", size, opener, executable)

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self.entries[name] = Entry(hashlib.sha256(target.encode()).hexdigest(), link=target)

    def add_archive(self, prefix: str, archive: bytes) -> None:
        """Add the files of a tar archive, such as ``git archive`` makes, below a folder."""
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                name = f"{prefix}/{member.name}"
                if member.issym():
                    self.add_link(name, member.linkname)
                elif member.isfile():
                    stream = tar.extractfile(member)
                    data = stream.read() if stream else b""
                    self.add_bytes(name, data, executable=bool(member.mode & 0o100))

    @property
    def digest(self) -> str:
        """The sha256 over names, modes and content hashes."""
        return digest_of(
            {
                name: {"sha256": one.sha256, "executable": one.executable, "link": one.link}
                for name, one in self.entries.items()
            }
        )

    @property
    def names(self) -> list[str]:
        """All files and the folders that they are in, in the archive's order."""
        folders = {str(parent) for name in self.entries for parent in PurePosixPath(name).parents} - {"."}
        return sorted({*self.entries, *folders})

    @property
    def size(self) -> int:
        """Bytes of the tar archive."""
        total = 2 * tarfile.BLOCKSIZE
        for name in self.names:
            entry = self.entries.get(name)
            content = entry.size if entry else 0
            total += len(self._header(name, entry)) + content + -content % tarfile.BLOCKSIZE
        return total

    def chunks(self) -> Generator[bytes, None, None]:
        """Yield the tar archive, a chunk at a time; nothing is kept on disk and no file is held in memory twice.

        Raises:
            BuildError: A file became longer or shorter.
        """
        for name in self.names:
            entry = self.entries.get(name)
            yield self._header(name, entry)
            if entry is None:
                continue
            size = 0
            for chunk in self.content(name):
                size += len(chunk)
                yield chunk
            if size != entry.size:
                raise BuildError(f"{name} changed while it was read.", next_command="the same command again")
            yield b"\0" * (-size % tarfile.BLOCKSIZE)
        yield b"\0" * (2 * tarfile.BLOCKSIZE)

    def content(self, name: str) -> Iterator[bytes]:
        """Yield a file's content, a chunk at a time."""
        with self.entries[name].opener() as stream:
            yield from chunks_of(stream)

    @staticmethod
    def _header(name: str, entry: Entry | None) -> bytes:
        info = tarfile.TarInfo(name)
        if entry is None:
            # Named, so that a folder gets the fixed time and not the moment when the engine unpacks it.
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            return info.tobuf(tarfile.GNU_FORMAT)
        info.mode = 0o755 if entry.executable else 0o644
        if entry.link:
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
        else:
            info.size = entry.size
        return info.tobuf(tarfile.GNU_FORMAT)
