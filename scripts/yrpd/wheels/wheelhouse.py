"""Locked wheels on disk, by hash: downloaded once, checked against the lock every time.

``<cache>/wheels/<sha256>/<file>`` holds one wheel; beside it ``verified.json`` remembers size, times and inode of the
file whose hash was right, so that an untouched file is not hashed again and a touched one always is. The cache may be
shared by several checkouts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from yrpd.errors import EnvironmentFailure, PinMismatchError
from yrpd.project import Project, write_json
from yrpd.reporting import Advance, Reporter
from yrpd.wheels.completeness import marker_environment, require_complete, stated_by_wheel
from yrpd.wheels.index import CHUNK, PYTHON_VERSION, Found, Wheel, find_wheels, supported_tags
from yrpd.wheels.locks import GLIBC, NPU, REGENERATE, Lock
from yrpd.wheels.package_index import open_session, pip_settings

X86_64 = "x86_64"
DOWNLOADS = 4
TIMEOUT_SECONDS = (30, 120)


@dataclass(frozen=True)
class Target:
    """The Python that wheels are for.

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


IMAGE = Target()


@dataclass(frozen=True)
class Stored:
    """A wheel of the lock and the verified file that holds it."""

    wheel: Wheel
    path: Path


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def wheels_folder(project: Project) -> Path:
    """Return where wheels are kept, one folder a hash."""
    return project.cache / "wheels"


def wheel_path(folder: Path, wheel: Wheel) -> Path:
    """Return where a wheel is kept."""
    return folder / wheel.sha256 / wheel.file


def _fingerprint(path: Path) -> dict[str, int]:
    # ctime cannot be set back by a program, so a changed byte always shows here, whatever its mtime says.
    status = path.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }


def verify_file(path: Path, sha256: str, *, next_command: str) -> None:
    """Prove that a file has the expected hash; hash it only when it was touched since the last proof.

    Raises:
        PinMismatchError: The bytes are others.
    """
    stamp = path.with_name("verified.json")
    fingerprint = {**_fingerprint(path), "sha256": sha256}
    try:
        if json.loads(stamp.read_text(encoding="utf-8")) == fingerprint:
            return
    except (FileNotFoundError, ValueError):
        pass
    found = hash_file(path)
    if found != sha256:
        raise PinMismatchError(
            f"{path} is not the locked file: expected sha256 {sha256}, found {found}.", next_command=next_command
        )
    write_json(stamp, fingerprint)


def _resolution_file(folder: Path, lock: Lock, target: Target) -> Path:
    return folder / f"{lock.name}-{target}-{lock.sha256[:16]}.json"


def read_resolution(folder: Path, lock: Lock, target: Target = IMAGE) -> tuple[Wheel, ...] | None:
    """Return which file stands for each entry, as found before for exactly this lock; ``None`` when not known.

    A record that names a hash that the lock does not have is not believed.
    """
    try:
        rows = json.loads(_resolution_file(folder, lock, target).read_text(encoding="utf-8"))
        wheels = tuple(Wheel(**row) for row in rows)
    except (FileNotFoundError, ValueError, TypeError):
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
        yield


@retry(
    retry=retry_if_exception_type(requests.RequestException),
    stop=stop_after_attempt(4),
    wait=wait_exponential(max=10),
    reraise=True,
)
def _fetch(session: requests.Session, url: str, part: Path, advance: Advance) -> None:
    """Download into ``part``, going on where an earlier try stopped."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        with part.open("ab" if resumed else "wb") as stream:
            for chunk in response.iter_content(CHUNK):
                stream.write(chunk)
                advance(len(chunk))


def _download(session: requests.Session, found: Found, folder: Path, advance: Advance) -> None:
    target = wheel_path(folder, found.wheel)
    part = folder / f"{found.wheel.sha256}.part"
    went_on = part.exists()
    try:
        _fetch(session, found.url, part, advance)
        sha256 = hash_file(part)
        if went_on and sha256 != found.wheel.sha256:
            # What an earlier try left was not the beginning of this file.
            part.unlink()
            _fetch(session, found.url, part, advance)
            sha256 = hash_file(part)
    except requests.RequestException as error:
        raise EnvironmentFailure(
            f"{found.wheel.file} could not be downloaded: {error}.", next_command="the same command again goes on"
        ) from error
    if sha256 != found.wheel.sha256:
        part.unlink()
        raise PinMismatchError(
            f"The package index sent a {found.wheel.file} that is not the locked one: expected sha256 "
            f"{found.wheel.sha256}, found {sha256}.",
            next_command="the same command again downloads it anew",
        )
    target.parent.mkdir(exist_ok=True)
    os.replace(part, target)
    write_json(target.with_name("verified.json"), {**_fingerprint(target), "sha256": sha256})


def _prove_complete(project: Project, lock: Lock, target: Target, wheels: Sequence[Path]) -> None:
    # Nothing resolves when these are installed. What the NPU's lock leaves out is in its base image.
    if lock.name != NPU:
        environment = marker_environment(target.machine, target.python)
        require_complete(lock.name, map(stated_by_wheel, wheels), environment, project.docker, REGENERATE)


def _fill(
    project: Project, lock: Lock, reporter: Reporter, targets: Sequence[Target]
) -> dict[Target, tuple[Wheel, ...]]:
    folder = wheels_folder(project)
    known = {target: read_resolution(folder, lock, target) or () for target in targets}
    if all(known.values()) and all(wheel_path(folder, one).exists() for every in known.values() for one in every):
        return known
    with _exclusive(folder), reporter.step(f"wheelhouse: download what {lock.name}.lock names"):
        every_tags = [supported_tags(one.machine, one.python, one.glibc) for one in targets]
        every = dict(zip(targets, find_wheels(lock.entries, every_tags), strict=True))
        wanted = {one.wheel.sha256: one for column in every.values() for one in column}
        missing = [one for one in wanted.values() if not wheel_path(folder, one.wheel).exists()]
        missing.sort(key=lambda one: -one.size)
        total = sum(one.size for one in missing)
        with (
            open_session(pip_settings()) as session,
            reporter.progress(f"{len(missing)} wheels", total or None, in_bytes=True) as advance,
            ThreadPoolExecutor(DOWNLOADS) as pool,
        ):
            for _ in pool.map(lambda one: _download(session, one, folder, advance), missing):
                pass
        for target, column in every.items():
            _prove_complete(project, lock, target, [wheel_path(folder, one.wheel) for one in column])
            write_json(_resolution_file(folder, lock, target), [asdict(one.wheel) for one in column])
        reporter.say(f"    {len(missing)} of {len(wanted)} wheels downloaded, {total / 1e6:.0f} MB")
    return {target: tuple(one.wheel for one in column) for target, column in every.items()}


def provide(project: Project, lock: Lock, reporter: Reporter, target: Target = IMAGE) -> tuple[Stored, ...]:
    """Return every wheel of a lock for one Python; see `provide_each`.

    Args:
        project: The checkout, which knows where the cache is.
        lock: What is wanted.
        reporter: Says what is downloaded.
        target: The Python that they are for; an image's on x86-64 when not given.
    """
    return provide_each(project, lock, reporter, (target,))[target]


def provide_each(
    project: Project, lock: Lock, reporter: Reporter, targets: Sequence[Target]
) -> dict[Target, tuple[Stored, ...]]:
    """Return every wheel of a lock as a verified file, for several Pythons, downloading what is not there yet.

    Args:
        project: The checkout, which knows where the cache is.
        lock: What is wanted.
        reporter: Says what is downloaded.
        targets: The Pythons that they are for.

    Raises:
        PinMismatchError: A wheel's bytes are not the locked ones (the file, expected and found hash are named).
        ConfigurationError: What one of the wheels requires is not in the lock.
        EnvironmentFailure: The package index does not answer.
    """
    folder = wheels_folder(project)
    wheels = _fill(project, lock, reporter, targets)
    stored = {target: tuple(Stored(one, wheel_path(folder, one)) for one in every) for target, every in wheels.items()}
    _verify_all([*{one.path: one for every in stored.values() for one in every}.values()])
    return stored


def verify_present(project: Project, lock: Lock) -> None:
    """Prove those wheels of a lock that are in the cache; the others are not missed.

    Raises:
        PinMismatchError: One is not the locked file.
    """
    folder = wheels_folder(project)
    known = read_resolution(folder, lock) or ()
    every = (Stored(wheel, wheel_path(folder, wheel)) for wheel in known)
    _verify_all([one for one in every if one.path.exists()])


def _verify_all(stored: Sequence[Stored]) -> None:
    def prove(one: Stored) -> None:
        again = f"rm -r {one.path.parent}, then the same command downloads it anew"
        verify_file(one.path, one.wheel.sha256, next_command=again)

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(prove, stored):
            pass


def requirement_lines(stored: Sequence[Stored]) -> str:
    """Return a requirements file that allows exactly these files and nothing else."""
    lines = [f"{one.wheel.name}=={one.wheel.version} --hash=sha256:{one.wheel.sha256}" for one in stored]
    return "\n".join(sorted(lines)) + "\n"
