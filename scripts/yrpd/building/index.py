"""The package index that pip is configured with: which wheels of a locked version exist, and where.

No host is named here, and an index is never trusted: every file is checked against the lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import requests
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from yrpd.building.locks import GLIBC, REGENERATE, Locked
from yrpd.errors import EnvironmentFailure, PinMismatchError
from yrpd.package_index import open_session, pip_settings

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage, PyPISimple

PYTHON_VERSION = (3, 11)
THREADS = 8


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
            f"The package index has no wheel of {locked.name} {locked.version} with a hash of the lock that fits "
            f"{tags[0] if tags else 'no tag'}.",
            next_command=REGENERATE,
        )
    _, file, sha256 = min(candidates)
    return file, sha256


def _packages(indexes: Sequence[PyPISimple], locked: Locked, timeout: float) -> Iterator[DistributionPackage]:
    """Yield the project's files from every index, in pip's order; an index that lacks the project is passed over."""
    from pypi_simple import NoSuchProjectError  # not loaded by commands that download nothing

    refused = []
    for client in indexes:
        try:
            yield from client.get_project_page(locked.name, timeout=timeout).packages
        except NoSuchProjectError:
            continue
        except requests.RequestException as error:
            refused.append(str(error))
    if len(refused) == len(indexes):
        why = refused[0] if refused else "pip is told to use none"
        raise EnvironmentFailure(
            f"The package index does not answer for {locked.name}: {why}.",
            next_command="pip config list",
        )


def _look_up(
    indexes: Sequence[PyPISimple], locked: Locked, every_tags: Sequence[list[Tag]], timeout: float
) -> list[Found]:
    by_hash: dict[str, DistributionPackage] = {}
    for package in _packages(indexes, locked, timeout):
        if "sha256" in package.digests:
            by_hash.setdefault(package.digests["sha256"], package)
    files = [(one.filename, digest) for digest, one in by_hash.items()]
    chosen = [choose(locked, files, tags) for tags in every_tags]
    return [
        Found(Wheel(locked.name, locked.version, file, sha256), by_hash[sha256].url, by_hash[sha256].size or 0)
        for file, sha256 in chosen
    ]


def find_wheels(entries: Iterable[Locked], every_tags: Sequence[list[Tag]]) -> list[list[Found]]:
    """Ask the indexes that pip is configured with for every entry, several at a time.

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
    # Indexes in local folders hold this machine's own builds, which no lock names.
    addresses = [address for address in settings.indexes if not address.startswith("file:")]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(THREADS) as pool:
        session = stack.enter_context(open_session(settings))
        indexes = [stack.enter_context(PyPISimple(address, session=session)) for address in addresses]
        rows = pool.map(lambda locked: _look_up(indexes, locked, every_tags, settings.timeout), entries)
        return [list(column) for column in zip(*rows, strict=True)]
