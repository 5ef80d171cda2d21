"""Proof that a lock is complete: whatever a locked package requires is in the lock, in a version that it accepts.

Only such a lock may be installed without resolving, and only an installation that does not resolve is the same next
year. What packages require is read from the locked wheels themselves.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from importlib.metadata import PackageMetadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from yrpd.errors import ConfigurationError


@dataclass(frozen=True)
class Stated:
    """What a locked package says of itself.

    Attributes:
        name: Canonical project name.
        version: Its version.
        requires: Its ``Requires-Dist`` lines.
    """

    name: NormalizedName
    version: str
    requires: tuple[str, ...]


def stated(metadata: Message | PackageMetadata) -> Stated:
    """Return what a package's metadata says."""
    requires = metadata.get_all("Requires-Dist") or ()
    return Stated(canonicalize_name(metadata["Name"]), metadata["Version"], tuple(requires))


def stated_by_wheel(path: Path) -> Stated:
    """Return what a wheel file says of itself."""
    with zipfile.ZipFile(path) as archive:
        # Wheels that carry other packages inside have more of these, deeper.
        names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        (name,) = (name for name in names if name.count("/") == 1)
        return stated(BytesHeaderParser().parsebytes(archive.read(name)))


def marker_environment(machine: str, python: tuple[int, int]) -> dict[str, str]:
    """Return the values of environment markers on CPython for Linux, by the oldest patch release of a Python.

    Args:
        machine: ``x86_64`` or ``aarch64``.
        python: Its version.
    """
    version = f"{python[0]}.{python[1]}"
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }


def read_requirements(path: Path) -> list[Requirement]:
    """Return the requirements of an ``.in`` or ``.overrides`` file; none where there is no such file."""
    if not path.exists():
        return []
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def gaps(
    locked: Iterable[Stated],
    environment: Mapping[str, str],
    *,
    wanted: Sequence[Requirement] = (),
    overrides: Sequence[Requirement] = (),
) -> list[str]:
    """Return a sentence for every requirement that the lock does not meet; a complete lock has none.

    Args:
        locked: Every package of the lock.
        environment: Values of environment markers, without ``extra``.
        wanted: What the lock was made for; its extras count.
        overrides: Requirements that stand in for all others of the same name, as in ``uv pip compile --overrides``. A
            name whose overrides all have markers that do not hold is required by nobody.
    """
    packages = {one.name: one for one in locked}
    replaced: dict[NormalizedName, list[Requirement]] = {}
    for one in overrides:
        replaced.setdefault(canonicalize_name(one.name), []).append(one)
    found: dict[str, None] = {}
    # A package counts once by itself and once with every extra that something asks of it.
    reached: dict[tuple[NormalizedName, str], None] = dict.fromkeys((name, "") for name in packages)
    waiting = [*reached]

    def holds(requirement: Requirement, extra: str = "") -> bool:
        return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra})

    def require(requirement: Requirement, by: str, extra: str = "") -> Iterator[tuple[NormalizedName, str]]:
        # What holds without the extra was counted with the package itself.
        if not holds(requirement, extra) or (extra and holds(requirement)):
            return
        name = canonicalize_name(requirement.name)
        there = packages.get(name)
        for one in filter(holds, replaced[name]) if name in replaced else (requirement,):
            if there is None or one.url or not one.specifier.contains(there.version, prereleases=True):
                what = f"the lock has {there.version}" if there else "the lock does not have it"
                found.setdefault(f"{by} requires {one}, {what}")
        if there:
            yield from ((name, asked) for asked in requirement.extras)

    for requirement in wanted:
        waiting.extend(require(requirement, "the lock's .in file"))
    while waiting:
        name, extra = waiting.pop()
        reached.setdefault((name, extra))
        by = f"{name}[{extra}]" if extra else name
        for line in packages[name].requires:
            further = require(Requirement(line), by, extra)
            waiting.extend(one for one in further if one not in reached)
    return sorted(found)


def require_complete(
    name: str, locked: Iterable[Stated], environment: Mapping[str, str], docker: Path, next_command: str
) -> None:
    """Prove one of the images' locks.

    Args:
        name: The lock's stem.
        locked: Every package of it.
        environment: Values of environment markers, without ``extra``.
        docker: The folder with the ``.in`` and ``.overrides`` files.
        next_command: What makes the lock.

    Raises:
        ConfigurationError: Something that a package requires is not in the lock.
    """
    missing = gaps(
        locked,
        environment,
        wanted=read_requirements(docker / f"{name}.in"),
        overrides=read_requirements(docker / f"{name}.overrides"),
    )
    if missing:
        raise ConfigurationError(
            f"{name}.lock is not complete: {missing[0]}{f' (and {len(missing) - 1} more)' if missing[1:] else ''}.",
            next_command=next_command,
            detail="\n".join(missing),
        )
