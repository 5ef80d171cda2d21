"""Files from where pip is configured to look; no index is named here.

unearth finds and fetches them, and builds nothing, which pip cannot help with a source distribution. What counts is
pip's own configuration (files and ``PIP_*`` variables): index, extra indexes, ``find-links``, certificates, proxy,
trusted hosts, timeout. No place has to be trusted: every file's hash is known beforehand and checked while it arrives.

This loads an HTTP stack, so commands that download nothing do not import it.
"""

from __future__ import annotations

import logging
import os
import shutil
import ssl
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.request import getproxies, proxy_bypass

import httpx2
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_exponential
from unearth import Link, PackageFinder
from unearth.auth import MultiDomainBasicAuth
from unearth.errors import HashMismatchError, UnpackError
from unearth.fetchers import PyPIClient

from yrpd.errors import EnvironmentFailure, PinMismatchError
from yrpd.reporting import Advance, Reporter
from yrpd.wheels.pip_config import find_links, index_addresses, pip_options

if TYPE_CHECKING:
    from unearth.fetchers import Fetcher

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0

# It warns of every project that an index does not have.
logging.getLogger("unearth").setLevel(logging.ERROR)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, (httpx2.HTTPError, UnpackError)) and not isinstance(error, HashMismatchError)


_patiently = retry(
    retry=retry_if_exception(_may_pass),
    stop=stop_after_attempt(3),
    wait=wait_exponential(multiplier=0.5, max=10),
    reraise=True,
)


def _why(error: Exception) -> str:
    # What follows is an address, maybe with a password.
    return str(error).partition(" for url")[0] or type(error).__name__


def _raise_failures(answer: httpx2.Response) -> None:
    if answer.is_server_error:
        answer.raise_for_status()


class _Client(PyPIClient):
    """Asks again, and remembers who refused instead of ending the search there.

    Attributes:
        refused: What was asked for in vain, with the reason; a project that an index does not have is not among it.
    """

    def __init__(self, options: Mapping[str, str], indexes: list[str]) -> None:
        seconds = float(options.get("timeout") or options.get("default-timeout") or _ANSWER_SECONDS)
        proxy, unchecked = options.get("proxy") or None, _tls(options, verify=False)
        super().__init__(
            verify=_tls(options, verify=True),
            proxy=proxy,
            timeout=httpx2.Timeout(seconds, connect=min(_CONNECT_SECONDS, seconds)),
            follow_redirects=True,
            auth=MultiDomainBasicAuth(prompting=False, index_urls=indexes),
            event_hooks={"response": [_raise_failures]},
            mounts={
                f"all://{host}": httpx2.HTTPTransport(
                    verify=unchecked, proxy=proxy or (None if proxy_bypass(host) else getproxies().get("https"))
                )
                for host in options.get("trusted-host", "").split()
            },
        )
        self.refused: dict[str, str] = {}

    def iter_secure_origins(self) -> Iterator[tuple[str, str, str]]:
        """Every place will do, since files are known by hash."""
        yield ("*", "*", "*")

    def get(self, url: httpx2.URL | str, **options: Any) -> httpx2.Response:
        """Return a page; one of status 503 where there is none to be had."""
        try:
            answer = _patiently(super().get)(url, **options)
            refused = answer.is_error and answer.status_code != httpx2.codes.NOT_FOUND
            reason = f"{answer.status_code} {answer.reason_phrase}" if refused else ""
        except httpx2.HTTPError as error:
            answer = httpx2.Response(503, request=httpx2.Request("GET", url))
            reason = _why(error)
        if reason:
            self.refused[str(url)] = reason
        return answer


def _tls(options: Mapping[str, str], *, verify: bool) -> ssl.SSLContext:
    if verify and (bundle := options.get("cert")):
        folder = bundle if os.path.isdir(bundle) else None
        context = ssl.create_default_context(cafile=None if folder else bundle, capath=folder)
    else:
        context = httpx2.create_ssl_context(verify=verify)
    if options.get("client-cert"):
        context.load_cert_chain(options["client-cert"])
    return context


class PackageIndex:
    """The indexes and folders that pip is configured with, opened.

    Args:
        options: pip's, by name.

    Attributes:
        client: Speaks to all of them.
        places: Their addresses, as they may be shown.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        # The address that pip uses when it is told none is the library's, too.
        (default,) = PackageFinder().sources
        indexes, folders = index_addresses(options, default["url"]), find_links(options)
        self.client = _Client(options, indexes)
        self.places = [Link(one).redacted for one in (*folders, *indexes)]
        # The library's own clients are not quite of the type that it asks for.
        fetcher = cast("Fetcher", self.client)
        self._finder = PackageFinder(fetcher, index_urls=indexes, find_links=folders, ignore_compatibility=True)
        if not self.places:
            self._finder.sources.clear()

    def __str__(self) -> str:
        """Return where it is looked."""
        return ", ".join(self.places) or "nowhere, since pip is told to use no index and no folder"

    def find(self, requirement: str, hashes: Collection[str] = ()) -> list[Link]:
        """Return a project's files, for whatever Python.

        Args:
            requirement: The project, with its version or without.
            hashes: sha256 of the files that are wanted; places that state none are read for them. All when not given.

        Raises:
            EnvironmentFailure: Nothing was found, and not every place could be asked.
        """
        wanted = {"sha256": sorted(hashes)} if hashes else None
        try:
            found = self._finder.find_matches(requirement, allow_yanked=True, allow_prereleases=True, hashes=wanted)
            links = [one.link for one in found]
        except (httpx2.HTTPError, OSError) as error:
            message = f"The files of {requirement} could not be read: {_why(error)}."
            raise EnvironmentFailure(message, next_command="pip config list") from error
        if not links and self.client.refused:
            address, reason = next(iter(self.client.refused.items()))
            raise EnvironmentFailure(
                f"{requirement} was not found, and a package index that pip is configured with does not answer: "
                f"{Link(address).redacted}: {reason}.",
                next_command="pip config list",
            )
        return links

    def fetch(self, link: Link, sha256: str, destination: Path, advance: Advance) -> None:
        """Bring a file to ``destination``; nothing is left there unless its hash is right.

        Args:
            link: Where it is.
            sha256: Its hash.
            destination: The new file; its folder is made.
            advance: Is told of bytes that arrived.

        Raises:
            PinMismatchError: The bytes are others.
            EnvironmentFailure: They do not arrive.
        """
        done = 0

        def tell(link: Link, completed: int, total: int | None) -> None:
            nonlocal done
            advance(completed - done)
            done = completed

        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".incoming-") as scratch:
            try:
                path = _patiently(self._finder.download)(link, scratch, {"sha256": [sha256]}, tell)
                if link.is_file:
                    path = Path(shutil.copy(path, scratch))
            except HashMismatchError as error:
                raise PinMismatchError(
                    f"{link.redacted} is not the file that is wanted: expected sha256 {sha256}, "
                    f"found {error.actual['sha256']}.",
                    next_command="pip config list   (or the same command again, which downloads it anew)",
                ) from error
            except (httpx2.HTTPError, UnpackError, OSError) as error:
                message = f"{link.redacted} could not be downloaded: {_why(error)}."
                raise EnvironmentFailure(message, next_command="the same command again goes on") from error
            path.chmod(0o644)
            os.replace(path, destination)


@contextmanager
def open_index(options: Mapping[str, str] | None = None) -> Iterator[PackageIndex]:
    """Open what pip is configured with, while the context lasts.

    Args:
        options: pip's, by name; what pip itself says when not given.

    Raises:
        EnvironmentFailure: A certificate that pip is configured with cannot be read.
    """
    try:
        index = PackageIndex(pip_options() if options is None else options)
    except OSError as error:
        message = f"A certificate that pip is configured with cannot be read: {error}."
        raise EnvironmentFailure(message, next_command="pip config list") from error
    with index.client:
        yield index


def download(project: str, file: str, sha256: str, destination: Path, reporter: Reporter) -> str:
    """Bring one file of a project to ``destination``; see `PackageIndex.fetch`.

    Returns:
        Where it came from.

    Raises:
        PinMismatchError: The place that has the file has other bytes under this name.
        EnvironmentFailure: No place has the file or could be reached.
    """
    with open_index() as index:
        link = next((one for one in index.find(project) if one.filename == file), None)
        if link is None:
            raise EnvironmentFailure(
                f"{file} is on none of the package indexes that pip is configured with: {index}.",
                next_command=f"pip config list   (then: pip download --no-deps {project} must find it)",
            )
        with reporter.progress(file, None, in_bytes=True) as advance:
            index.fetch(link, sha256, destination, advance)
        return Link(link.comes_from or link.url).redacted
