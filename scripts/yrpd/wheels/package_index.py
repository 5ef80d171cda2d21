"""A file from the package index that pip is configured with; no index is named here.

What counts is pip's own configuration (files and ``PIP_*`` variables): index, extra indexes, ``find-links`` folders,
certificates, proxy, timeout. The file's hash is known beforehand and checked while the bytes arrive.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.exceptions import InsecureRequestWarning
from urllib3.util import Retry

from yrpd.errors import EnvironmentFailure, PinMismatchError
from yrpd.reporting import Reporter
from yrpd.wheels.pip_config import pip_options, uses_no_index

_CHUNK = 1 << 16
_CONNECT_SECONDS = 10.0


def default_index() -> str:
    """Return where pip looks when nothing else is configured."""
    from pypi_simple import PYPI_SIMPLE_ENDPOINT  # not loaded by commands that download nothing

    return PYPI_SIMPLE_ENDPOINT


@dataclass(frozen=True)
class IndexSettings:
    """Where pip looks, in its order.

    Attributes:
        find_links: Local folders of files.
        indexes: Simple-index addresses.
        verify: A certificate bundle, or ``True`` for the default one.
        proxy: A proxy, or empty.
        trusted: Hosts, with or without a port, whose certificates are not checked.
        client_certificate: A file that this machine shows to the index, or empty.
        timeout: Seconds without an answer after which a request is given up.
    """

    find_links: tuple[Path, ...] = ()
    indexes: tuple[str, ...] = field(default_factory=lambda: (default_index(),))
    verify: str | bool = True
    proxy: str = ""
    trusted: tuple[str, ...] = ()
    client_certificate: str = ""
    timeout: float = 30.0


@dataclass(frozen=True)
class Wanted:
    """A file, known by content.

    Attributes:
        project: The project on the index.
        file: The file's name.
        sha256: Its hash.
    """

    project: str
    file: str
    sha256: str


def pip_settings() -> IndexSettings:
    """Return where pip looks, by its own configuration."""
    return settings_from(pip_options())


def settings_from(options: Mapping[str, str]) -> IndexSettings:
    """Return the settings that pip options mean."""
    indexes: list[str] = []
    if not uses_no_index(options):
        indexes = [options.get("index-url") or default_index(), *options.get("extra-index-url", "").split()]
    folders = [_local(place) for place in options.get("find-links", "").split()]
    return IndexSettings(
        find_links=tuple(folder for folder in folders if folder is not None),
        indexes=tuple(indexes),
        verify=options.get("cert") or True,
        proxy=options.get("proxy", ""),
        trusted=tuple(options.get("trusted-host", "").split()),
        client_certificate=options.get("client-cert", ""),
        timeout=float(options.get("timeout") or options.get("default-timeout") or IndexSettings.timeout),
    )


def without_credentials(address: str) -> str:
    """Return an address as it may be shown."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def download(wanted: Wanted, destination: Path, settings: IndexSettings, reporter: Reporter) -> str:
    """Bring a file to ``destination``; nothing is left there unless its hash is right.

    Returns:
        Where it came from.

    Raises:
        PinMismatchError: An index has, or sends, other bytes under this name.
        EnvironmentFailure: No place has the file or could be reached.
    """
    tried: list[str] = []
    for folder in settings.find_links:
        if (folder / wanted.file).is_file():
            with (folder / wanted.file).open("rb") as stream:
                size = (folder / wanted.file).stat().st_size
                _receive(iter(lambda: stream.read(_CHUNK), b""), size, wanted, destination, str(folder), reporter)
            return str(folder)
    for index in settings.indexes:
        if _from_index(index, wanted, destination, settings, tried, reporter):
            return without_credentials(index)
    where = "; ".join(tried) or "pip is told to use none"
    raise EnvironmentFailure(
        f"{wanted.file} is on none of the package indexes that pip is configured with: {where}.",
        next_command=f"pip config list   (then: pip download --no-deps {wanted.project} must find it)",
    )


def _from_index(
    index: str, wanted: Wanted, destination: Path, settings: IndexSettings, tried: list[str], reporter: Reporter
) -> bool:
    from pypi_simple import NoSuchProjectError, PyPISimple  # not loaded by commands that download nothing

    shown = without_credentials(index)
    timeout = (min(_CONNECT_SECONDS, settings.timeout), settings.timeout)
    with closing(open_session(settings)) as session, PyPISimple(index, session=session) as client:
        try:
            page = client.get_project_page(wanted.project, timeout=timeout)
            package = next((package for package in page.packages if package.filename == wanted.file), None)
            if package is None:
                tried.append(f"{shown} has {wanted.project} without this file")
                return False
            declared = package.digests.get("sha256", wanted.sha256)
            if declared != wanted.sha256:
                raise _other_bytes(wanted, declared, shown)
            with session.get(
                package.url, stream=True, timeout=timeout, headers={"Accept-Encoding": "identity"}
            ) as answer:
                answer.raise_for_status()
                size = int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
                _receive(answer.iter_content(_CHUNK), size, wanted, destination, shown, reporter)
        except NoSuchProjectError:
            tried.append(f"{shown} has no project {wanted.project}")
            return False
        except requests.RequestException as error:
            tried.append(f"{shown}: {_why(error)}")
            return False
    return True


def _receive(
    chunks: Iterator[bytes], size: int | None, wanted: Wanted, destination: Path, place: str, reporter: Reporter
) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=".incoming-")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream, reporter.progress(wanted.file, size, in_bytes=True) as advance:
            found = _copy(chunks, stream, advance)
        if found != wanted.sha256:
            raise _other_bytes(wanted, found, place)
        partial.chmod(0o644)
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)


def _copy(chunks: Iterator[bytes], stream: BinaryIO, advance: Callable[[float], None]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        stream.write(chunk)
        advance(len(chunk))
    return digest.hexdigest()


def _other_bytes(wanted: Wanted, found: str, place: str) -> PinMismatchError:
    return PinMismatchError(
        f"{wanted.file} from {place} is not the pinned file: expected sha256 {wanted.sha256}, found {found}.",
        next_command="git diff release.toml   (or another index: pip config set global.index-url URL)",
    )


def _why(error: requests.RequestException) -> str:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return str(reason or error).rpartition(": ")[2] or type(error).__name__


def open_session(settings: IndexSettings) -> requests.Session:
    """Return a session with pip's certificates, trusted hosts and proxy, and retries; the caller closes it."""
    session = requests.Session()
    retry = Retry(total=2, connect=1, backoff_factor=0.5, status_forcelist=(500, 502, 503, 504))
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.mount("file://", _FileAdapter())
    session.verify = settings.verify
    session.cert = settings.client_certificate or None
    for host in settings.trusted:
        for end in ("/",) if ":" in host else ("/", ":"):
            session.mount(f"https://{host}{end}", _UncheckedAdapter(max_retries=retry))
    if settings.proxy:
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    return session


def _local(place: str) -> Path | None:
    """Return a find-links entry as a folder; remote pages are not looked at."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if "://" in place else Path(place).expanduser()


class _UncheckedAdapter(HTTPAdapter):
    """Does not check a host's certificate: what pip's ``trusted-host`` means. Files are known by hash all the same."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["verify"] = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)
            return super().send(request, *args, **kwargs)


class _FileAdapter(BaseAdapter):
    """Serves ``file://`` addresses, which pip accepts as an index and requests does not."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        path = Path(url2pathname(urlsplit(request.url or "").path))
        path = path / "index.html" if path.is_dir() else path
        answer = requests.Response()
        answer.request, answer.url = request, request.url or ""
        if path.is_file():
            answer.status_code = 200
            answer.raw = path.open("rb")
            answer.headers["Content-Type"] = "text/html" if path.suffix == ".html" else "application/octet-stream"
            answer.headers["Content-Length"] = str(path.stat().st_size)
        else:
            answer.status_code, answer.reason = 404, "Not Found"
        return answer

    def close(self) -> None:
        """Nothing stays open."""
