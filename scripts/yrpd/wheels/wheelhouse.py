"""Locked wheels on disk, by hash: downloaded once, checked against the lock every time.

``<cache>/wheels/<sha256>/<file>`` holds one wheel; beside it ``verified.json`` remembers size, times and inode of the
file whose hash was right, so that an untouched file is not hashed again and a touched one always is. The cache may be
shared by several checkouts.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.tags import Tag, compatible_tags, cpython_tags, create_compatible_tags_selector
from packaging.utils import parse_wheel_filename

from yrpd.errors import PinMismatchError
from yrpd.project import Project, hash_file, write_json
from yrpd.reporting import Reporter
from yrpd.wheels.completeness import require_complete
from yrpd.wheels.locks import GLIBC, REGENERATE, Lock, Locked, stands_on_a_base

if TYPE_CHECKING:
    from unearth import Link

    from yrpd.wheels.package_index import PackageIndex

X86_64 = "x86_64"
PYTHON_VERSION = (3, 11)
DOWNLOADS = 6


@dataclass(frozen=True)
class Target:
    """The Python that wheels are for: CPython on Linux.

    Attributes:
        machine: ``x86_64`` or ``aarch64``.
        python: Its version.
        glibc: The oldest C library that it may have.
    """

    machine: str = X86_64
    python: tuple[int, int] = PYTHON_VERSION
    glibc: tuple[int, int] = GLIBC

    def __str__(self) -> str:
        """Return what tells targets apart in file names; an image's Python goes without saying."""
        image = (self.python, self.glibc) == (PYTHON_VERSION, GLIBC)
        return self.machine if image else f"{self.machine}-cp{self.python[0]}{self.python[1]}-glibc{self.glibc[1]}"

    @property
    def tags(self) -> list[Tag]:
        """The wheel tags that it accepts, best first."""
        platforms = [f"manylinux_{self.glibc[0]}_{minor}" for minor in range(self.glibc[1], 4, -1)]
        # These are names from before the C library's version was in them.
        platforms += ["manylinux2014", "manylinux2010", "manylinux1", "linux"]
        platforms = [f"{platform}_{self.machine}" for platform in platforms]
        interpreter = f"cp{self.python[0]}{self.python[1]}"
        return [*cpython_tags(self.python, platforms=platforms), *compatible_tags(self.python, interpreter, platforms)]


@dataclass(frozen=True)
class Wheel:
    """A wheel of a lock, or one that was made from such, and the file that holds it.

    Attributes:
        name: Canonical project name.
        version: Version as locked.
        sha256: Hash of its bytes.
        path: The file.
    """

    name: str
    version: str
    sha256: str
    path: Path

    @property
    def file(self) -> str:
        """The file's name."""
        return self.path.name


def wheels_folder(project: Project) -> Path:
    """Return where wheels are kept, one folder a hash."""
    return project.cache / "wheels"


def _verify(wheel: Wheel) -> None:
    """Prove that a file has the expected hash; hash it only when it was touched since the last proof.

    Raises:
        PinMismatchError: The bytes are others.
    """
    stamp, status = wheel.path.with_name("verified.json"), wheel.path.stat()
    # ctime cannot be set back by a program, so a changed byte always shows here, whatever its mtime says.
    fingerprint = {
        "sha256": wheel.sha256,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }
    try:
        if json.loads(stamp.read_text(encoding="utf-8")) == fingerprint:
            return
    except (FileNotFoundError, ValueError):
        pass
    found = hash_file(wheel.path)
    if found != wheel.sha256:
        raise PinMismatchError(
            f"{wheel.path} is not the locked file: expected sha256 {wheel.sha256}, found {found}.",
            next_command=f"rm -r {wheel.path.parent}, then the same command downloads it anew",
        )
    write_json(stamp, fingerprint)


def _verify_all(wheels: Sequence[Wheel]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(_verify, wheels):
            pass


def _resolution_file(folder: Path, lock: Lock, target: Target) -> Path:
    return folder / f"{lock.name}-{target}-{lock.sha256[:16]}.json"


def read_resolution(folder: Path, lock: Lock, target: Target) -> tuple[Wheel, ...] | None:
    """Return which file stands for each entry, as found before for exactly this lock; ``None`` when not known.

    A record that names a hash that the lock does not have is not believed.
    """
    try:
        rows = json.loads(_resolution_file(folder, lock, target).read_text(encoding="utf-8"))
        wheels = tuple(
            Wheel(row["name"], row["version"], row["sha256"], folder / row["sha256"] / row["file"]) for row in rows
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    allowed = {entry.name: entry.hashes for entry in lock.entries}
    if set(allowed) != {wheel.name for wheel in wheels}:
        return None
    return wheels if all(wheel.sha256 in allowed[wheel.name] for wheel in wheels) else None


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for left_over in folder.glob("*/.incoming-*"):
            shutil.rmtree(left_over)  # by a run that was killed
        yield


def choose(index: PackageIndex, locked: Locked, target: Target) -> Link:
    """Return the best wheel that the lock allows and the target accepts.

    Raises:
        PinMismatchError: There is none.
        EnvironmentFailure: No place answers.
    """
    links = index.find(f"{locked.name}=={locked.version}", locked.hashes)
    select = create_compatible_tags_selector(target.tags)
    best = next(select((one, parse_wheel_filename(one.filename)[3]) for one in links if one.is_wheel), None)
    if best is None:
        raise PinMismatchError(
            f"There is no wheel of {locked.name} {locked.version} with a hash of the lock that fits {target.tags[0]}. "
            f"Looked in: {index}.",
            next_command=f"pip config list   (gone everywhere: {REGENERATE})",
        )
    return best


def _fill(project: Project, lock: Lock, reporter: Reporter, target: Target) -> tuple[Wheel, ...]:
    folder = wheels_folder(project)
    known = read_resolution(folder, lock, target)
    if known is not None and all(one.path.exists() for one in known):
        return known
    from yrpd.wheels.package_index import open_index  # not loaded by commands that download nothing

    with (
        _exclusive(folder),
        reporter.step(f"wheelhouse: download what {lock.name}.lock names"),
        open_index() as index,
        reporter.progress(f"{len(lock.entries)} wheels", None, in_bytes=True) as advance,
        ThreadPoolExecutor(DOWNLOADS) as pool,
    ):
        fetched = []

        def bring(locked: Locked) -> Wheel:
            link = choose(index, locked, target)
            sha256 = (link.hash_option or {})["sha256"][0]
            path = folder / sha256 / link.filename
            if not path.exists():
                index.fetch(link, sha256, path, advance)
                fetched.append(path.stat().st_size)
            return Wheel(locked.name, locked.version, sha256, path)

        wheels = tuple(pool.map(bring, lock.entries))
        reporter.say(f"    {len(fetched)} of {len(wheels)} wheels downloaded, {sum(fetched) / 1e6:.0f} MB")
        # Nothing resolves when these are installed.
        if not stands_on_a_base(lock.name):
            platform = f"{target.machine}-manylinux_{target.glibc[0]}_{target.glibc[1]}"
            paths = [one.path for one in wheels]
            require_complete(lock, paths, project.docker, python=target.python, platform=platform)
        rows = [{"name": one.name, "version": one.version, "file": one.file, "sha256": one.sha256} for one in wheels]
        write_json(_resolution_file(folder, lock, target), rows)
    return wheels


def provide(project: Project, lock: Lock, reporter: Reporter, target: Target | None = None) -> tuple[Wheel, ...]:
    """Return every wheel of a lock as a verified file, downloading what is not there yet.

    Args:
        project: The checkout, which knows where the cache is.
        lock: What is wanted.
        reporter: Says what is downloaded.
        target: The Python that they are for; an image's on x86-64 when not given.

    Raises:
        PinMismatchError: A wheel's bytes are not the locked ones (the file, expected and found hash are named).
        ConfigurationError: What one of the wheels requires is not in the lock.
        EnvironmentFailure: The package index does not answer.
    """
    wheels = _fill(project, lock, reporter, target or Target())
    _verify_all(wheels)
    return wheels


def verify_present(project: Project, lock: Lock) -> None:
    """Prove those wheels of a lock that are in the cache, for an image on x86-64; the others are not missed.

    Raises:
        PinMismatchError: One is not the locked file.
    """
    known = read_resolution(wheels_folder(project), lock, Target()) or ()
    _verify_all([one for one in known if one.path.exists()])


def requirement_lines(wheels: Sequence[Wheel]) -> str:
    """Return a requirements file that allows exactly these files and nothing else."""
    lines = [f"{one.name}=={one.version} --hash=sha256:{one.sha256}" for one in wheels]
    return "\n".join(sorted(lines)) + "\n"
