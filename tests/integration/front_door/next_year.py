"""A package index in front of the one that pip is configured with, as that one may look next year.

It says what pip's index says, file by file with its hash, and changes one thing: every project has got a much newer
version (`Newer`), or has lost every file that no lock names (`OnlyLocked`). What is asked for is written down. Files go
through as they come and are kept on disk by their hash, so that a second run does not download them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import os
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

from packaging.utils import canonicalize_name

from yrpd.wheels.package_index import PackageIndex

CHUNK = 1 << 20
NEWER = "9999.0"


@dataclass(frozen=True)
class File:
    """A file of the index.

    Attributes:
        name: Its file name.
        sha256: Hash of its bytes.
        url: Where the real index has it; empty for one that was made here.
        requires_python: What the index says about Pythons, or empty.
        data: Its bytes, where it was made here.
    """

    name: str
    sha256: str
    url: str = ""
    requires_python: str = ""
    data: bytes = field(default=b"", repr=False)


def newer_wheel(project: str) -> File:
    """Return a real wheel, installable and empty, of a version that nothing can know yet."""
    name = project.replace("-", "_")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        folder = f"{name}-{NEWER}.dist-info"
        tag = "Wheel-Version: 1.0\nGenerator: next_year\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files = {"METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {NEWER}\n", "WHEEL": tag}
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{file}"), text)
        rows = "".join(f"{folder}/{file},,\n" for file in (*files, "RECORD"))
        archive.writestr(zipfile.ZipInfo(f"{folder}/RECORD"), rows)
    data = stream.getvalue()
    return File(f"{name}-{NEWER}-py3-none-any.whl", hashlib.sha256(data).hexdigest(), data=data)


class Real:
    """The index that pip is configured with, each page read once and each file kept.

    Args:
        index: Where it is.
        kept: Folder of files by hash, ``<sha256>/<file>``, which is filled.
        seeds: Further such folders, which are only read.
    """

    def __init__(self, index: PackageIndex, kept: Path, seeds: Sequence[Path]) -> None:
        self.index = index
        self.kept = kept
        self.folders = (kept, *seeds)
        self._pages: dict[str, tuple[File, ...]] = {}

    def page(self, project: str) -> tuple[File, ...]:
        """Return the files of a project, of every index; those without a hash are left out."""
        if project not in self._pages:
            self._pages[project] = tuple(self._read(project))
        return self._pages[project]

    def _read(self, project: str) -> Iterator[File]:
        seen: set[str] = set()
        for one in self.index.find(project):
            (sha256,) = (one.hash_option or {}).get("sha256", [""])
            if sha256 and one.filename not in seen:
                seen.add(one.filename)
                yield File(one.filename, sha256, one.url, one.requires_python or "")

    def content(self, file: File) -> tuple[int | None, Iterator[bytes]]:
        """Return a file's length, where it is known, and its bytes; a whole file with the right hash is kept."""
        for folder in self.folders:
            path = folder / file.sha256 / file.name
            if path.is_file():
                return path.stat().st_size, _read_file(path)
        return None, self._fetch(file)

    def _fetch(self, file: File) -> Iterator[bytes]:
        self.kept.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.kept, prefix=".incoming-")
        digest = hashlib.sha256()
        try:
            with (
                os.fdopen(handle, "wb") as stream,
                self.index.client.stream("GET", file.url) as answer,
            ):
                answer.raise_for_status()
                for chunk in answer.iter_bytes(CHUNK):
                    digest.update(chunk)
                    stream.write(chunk)
                    yield chunk
            if digest.hexdigest() == file.sha256:
                path = self.kept / file.sha256 / file.name
                path.parent.mkdir(exist_ok=True)
                os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)


def _read_file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


class NextYear:
    """The index of next year.

    Args:
        real: The index that it stands in front of.

    Attributes:
        offered: What its pages named, by hash.
        asked: The files that were asked for, by hash.
    """

    def __init__(self, real: Real) -> None:
        self.real = real
        self.offered: dict[str, File] = {}
        self.asked: dict[str, File] = {}

    def page(self, project: str) -> Sequence[File]:
        """Return the files of a project, as of next year."""
        raise NotImplementedError

    @contextlib.contextmanager
    def served(self) -> Iterator[str]:
        """Serve it on loopback while the context lasts; its address as pip's ``index-url``."""
        with _Server(self) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
            finally:
                server.shutdown()
                thread.join()


class Newer(NextYear):
    """Every project has a version that is newer than everything that a lock can name."""

    def page(self, project: str) -> Sequence[File]:
        """Return all files, and the newer one."""
        files = self.real.page(project)
        return [*files, newer_wheel(project)] if files else []


class OnlyLocked(NextYear):
    """Whatever no lock names is gone.

    Args:
        real: The index that it stands in front of.
        locked: The hashes that locks name.
    """

    def __init__(self, real: Real, locked: frozenset[str]) -> None:
        super().__init__(real)
        self.locked = locked

    def page(self, project: str) -> Sequence[File]:
        """Return the files that a lock names."""
        return [one for one in self.real.page(project) if one.sha256 in self.locked]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, index: NextYear) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.index = index


class _Handler(BaseHTTPRequestHandler):
    """``/simple/<project>/`` and ``/files/<sha256>/<file>``."""

    server: _Server

    def do_GET(self) -> None:
        parts = [unquote(part) for part in self.path.partition("?")[0].strip("/").split("/")]
        if len(parts) == 2 and parts[0] == "simple":
            self._page(canonicalize_name(parts[1]))
        elif len(parts) == 3 and parts[0] == "files":
            self._file(parts[1])
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _page(self, project: str) -> None:
        files = self.server.index.page(project)
        self.server.index.offered.update((one.sha256, one) for one in files)
        if not files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        rows = []
        for one in files:
            requires = f' data-requires-python="{html.escape(one.requires_python)}"' if one.requires_python else ""
            address = f"/files/{one.sha256}/{quote(one.name)}#sha256={one.sha256}"
            rows.append(f'<a href="{address}"{requires}>{html.escape(one.name)}</a><br>')
        body = ("<!DOCTYPE html><html><body>\n" + "\n".join(rows) + "\n</body></html>\n").encode()
        self._begin("text/html", len(body))
        self.wfile.write(body)

    def _file(self, sha256: str) -> None:
        file = self.server.index.offered.get(sha256)
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.server.index.asked[sha256] = file
        length, chunks = (len(file.data), iter([file.data])) if file.data else self.server.index.real.content(file)
        self._begin("application/octet-stream", length)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for chunk in chunks:
                self.wfile.write(chunk)

    def _begin(self, kind: str, length: int | None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
