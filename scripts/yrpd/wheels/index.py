"""The folders and package indexes that pip is configured with: which wheels of a locked version exist, and where.

No host is named here, and an index is never trusted: every file is checked against the lock.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import requests
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from yrpd.errors import EnvironmentFailure, PinMismatchError
from yrpd.wheels.locks import GLIBC, REGENERATE, Locked
from yrpd.wheels.package_index import IndexSettings, open_session, pip_settings, without_credentials

if TYPE_CHECKING:
    from pypi_simple import PyPISimple

PYTHON_VERSION = (3, 11)
THREADS = 8
CHUNK = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """One wheel file, named by its content.

    Attributes:
        name: Canonical project name.
        version: Version as locked.
        file: The file's name.
        sha256: Hash of its bytes; one of the lock's.
    """

    name: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Found:
    """A wheel and where the index has it."""

    wheel: Wheel
    url: str
    size: int


def supported_tags(
    machine: str = "x86_64", python: tuple[int, int] = PYTHON_VERSION, glibc: tuple[int, int] = GLIBC
) -> list[Tag]:
    """Return the wheel tags that an image's Python accepts, best first: CPython on Linux, glibc up to ``glibc``.

    Args:
        machine: ``x86_64`` or ``aarch64``.
        python: Its version.
        glibc: The C library's version.
    """
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    platforms = []
    for minor in range(glibc[1], 4, -1):
        platforms.append(f"manylinux_{glibc[0]}_{minor}_{machine}")
        if minor in legacy:
            platforms.append(f"{legacy[minor]}_{machine}")
    platforms.append(f"linux_{machine}")
    interpreter = f"cp{python[0]}{python[1]}"
    tags = list(cpython_tags(python, platforms=platforms))
    return tags + list(compatible_tags(python, interpreter=interpreter, platforms=platforms))


def choose(locked: Locked, packages: Iterable[tuple[str, str]], tags: list[Tag]) -> tuple[str, str]:
    """Return the (file, sha256) of the best wheel that the lock allows and the tags accept.

    Args:
        locked: The lock's entry.
        packages: (file name, sha256) of what the index has for the project.
        tags: Accepted tags, best first.

    Raises:
        PinMismatchError: No file of the index has one of the lock's hashes and fits.
    """
    rank = {tag: position for position, tag in enumerate(tags)}
    candidates: list[tuple[int, str, str]] = []
    for file, sha256 in packages:
        if sha256 not in locked.hashes:
            continue
        try:
            _, _, _, file_tags = parse_wheel_filename(file)
        except InvalidWheelFilename:
            continue
        positions = [rank[tag] for tag in file_tags if tag in rank]
        if positions:
            candidates.append((min(positions), file, sha256))
    if not candidates:
        raise PinMismatchError(
            f"There is no wheel of {locked.name} {locked.version} with a hash of the lock that fits "
            f"{tags[0] if tags else 'no tag'}.",
            next_command=REGENERATE,
        )
    _, file, sha256 = min(candidates)
    return file, sha256


@dataclass(frozen=True)
class _Offer:
    """A file that a place has; its hash is ``None`` where the place does not state it."""

    file: str
    sha256: str | None
    url: str
    size: int


def is_version(file: str, locked: Locked) -> bool:
    """Tell whether a file's name says that it is a wheel of the locked version."""
    try:
        name, version, _, _ = parse_wheel_filename(file)
        return name == locked.name and version == Version(locked.version)
    except (InvalidWheelFilename, InvalidVersion):
        return False


@dataclass(frozen=True)
class _Places:
    """Where pip is configured to look, opened."""

    settings: IndexSettings
    session: requests.Session
    indexes: Sequence[PyPISimple]

    def offers(self, locked: Locked) -> list[_Offer]:
        """Return the project's files: of the folders, then of every index in pip's order."""
        from pypi_simple import NoSuchProjectError  # not loaded by commands that download nothing

        offers = [
            self.hashed(_Offer(path.name, None, path.absolute().as_uri(), path.stat().st_size))
            for folder in self.settings.find_links
            for path in sorted(folder.glob("*.whl"))
            if is_version(path.name, locked)
        ]
        refused = []
        for client in self.indexes:
            try:
                page = client.get_project_page(locked.name, timeout=self.settings.timeout)
            except NoSuchProjectError:
                continue
            except requests.RequestException as error:
                refused.append(str(error))
                continue
            offers += [_Offer(one.filename, one.digests.get("sha256"), one.url, one.size or 0) for one in page.packages]
        if refused and len(refused) == len(self.indexes) and not offers:
            raise EnvironmentFailure(
                f"The package index does not answer for {locked.name}: {refused[0]}.", next_command="pip config list"
            )
        return offers

    def hashed(self, offer: _Offer) -> _Offer:
        """Return the offer with the hash of its bytes, which are read for that."""
        try:
            with self.session.get(offer.url, stream=True, timeout=self.settings.timeout) as answer:
                answer.raise_for_status()
                digest = hashlib.sha256()
                for chunk in answer.iter_content(CHUNK):
                    digest.update(chunk)
        except requests.RequestException as error:
            raise EnvironmentFailure(
                f"{offer.file} could not be read: {error}.", next_command="pip config list"
            ) from error
        return replace(offer, sha256=digest.hexdigest())

    def __str__(self) -> str:
        """Return where it is looked, as it may be shown."""
        places = [*map(str, self.settings.find_links), *map(without_credentials, self.settings.indexes)]
        return ", ".join(places) or "nowhere, since pip is told to use no index and no folder"


def _look_up(places: _Places, locked: Locked, every_tags: Sequence[list[Tag]]) -> list[Found]:
    offers = places.offers(locked)
    try:
        return _choices(locked, offers, every_tags)
    except PinMismatchError:
        # A mirror of plain files states no hashes: those of the locked version are read for theirs.
        read = [places.hashed(one) for one in offers if one.sha256 is None and is_version(one.file, locked)]
    try:
        return _choices(locked, [*offers, *read], every_tags)
    except PinMismatchError as error:
        raise PinMismatchError(
            f"{error.message} Looked in: {places}.", next_command=f"pip config list   (gone everywhere: {REGENERATE})"
        ) from None


def _choices(locked: Locked, offers: Iterable[_Offer], every_tags: Sequence[list[Tag]]) -> list[Found]:
    by_hash: dict[str, _Offer] = {}
    for offer in offers:
        if offer.sha256:
            by_hash.setdefault(offer.sha256, offer)
    files = [(one.file, sha256) for sha256, one in by_hash.items()]
    chosen = [choose(locked, files, tags) for tags in every_tags]
    return [
        Found(Wheel(locked.name, locked.version, file, sha256), by_hash[sha256].url, by_hash[sha256].size)
        for file, sha256 in chosen
    ]


def find_wheels(entries: Iterable[Locked], every_tags: Sequence[list[Tag]]) -> list[list[Found]]:
    """Look for every entry where pip is configured to look, several at a time.

    Args:
        entries: What is wanted.
        every_tags: For every Python that is asked for, the tags that it accepts, best first.

    Returns:
        For every such Python one wheel an entry.

    Raises:
        PinMismatchError: An entry has no fitting wheel with a locked hash.
        EnvironmentFailure: No index answers.
    """
    from pypi_simple import PyPISimple

    settings = pip_settings()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(THREADS) as pool:
        session = stack.enter_context(open_session(settings))
        indexes = [stack.enter_context(PyPISimple(address, session=session)) for address in settings.indexes]
        places = _Places(settings, session, indexes)
        rows = pool.map(lambda locked: _look_up(places, locked, every_tags), entries)
        return [list(column) for column in zip(*rows, strict=True)]
