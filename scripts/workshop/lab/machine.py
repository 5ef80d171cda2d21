"""The thin edge to the machine: what it must have, one lab command at a time, and the execution of planned steps."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workshop.lab import processes
from workshop.lab.layout import Lab
from workshop.lab.plan import End, Forget, Run, Start, Step, Write
from yrpd.errors import EnvironmentFailure

PACKAGES = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setsid": "util-linux",
    "umount": "mount",
    "mount": "mount",
}
DISK_PROGRAMS = {"mkfs.ext4": "e2fsprogs"}
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"  # not on every user's PATH, and su keeps the user's


def environment() -> dict[str, str]:
    """Return the environment for programs that are started: ours, with the system programs' folders on PATH."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}"}


def require(programs: Iterable[str], again: str) -> None:
    """Check that this user can make a lab here.

    Args:
        programs: What has to be installed.
        again: The command to name once the reason is mended.

    Raises:
        EnvironmentFailure: Not root, or a program is missing; its Debian package is named.
    """
    if os.geteuid() != 0:
        raise EnvironmentFailure(
            "A lab needs root: it makes network namespaces and starts Docker engines.", next_command=f"sudo {again}"
        )
    path = environment()["PATH"]
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        packages = " ".join(sorted({{**PACKAGES, **DISK_PROGRAMS}[program] for program in missing}))
        raise EnvironmentFailure(
            f"Not installed here: {', '.join(missing)} (Debian: {packages}).",
            next_command=f"apt-get install -y --no-install-recommends {packages}",
        )


@contextmanager
def held(lab: Lab, again: str) -> Iterator[None]:
    """Keep other lab commands out while one works.

    Raises:
        EnvironmentFailure: Another one is working on this lab.
    """
    handle = os.open(lab.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(handle).st_ino == lab.lock_file.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise EnvironmentFailure(
                f"Another command is working on the lab {lab.name} at this moment.", next_command=again
            )
        try:
            yield
        finally:
            lab.lock_file.unlink(missing_ok=True)
    finally:
        os.close(handle)


def execute(step: Step) -> None:
    """Carry out one planned step.

    Raises:
        EnvironmentFailure: A command failed; what it said is in the message.
    """
    match step:
        case Run():
            run(step.argv)
        case Write():
            step.path.parent.mkdir(parents=True, exist_ok=True)
            step.path.write_text(step.content, encoding="utf-8")
        case Forget():
            step.path.unlink(missing_ok=True)
        case Start():
            start(step.argv, step.log)
        case End():
            processes.end(step.processes, step.grace_s)


def run(argv: tuple[str, ...]) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        EnvironmentFailure: It ended with an error.
    """
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment(), timeout=60)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"exit status {done.returncode}"
        raise EnvironmentFailure(f"`{' '.join(argv)}` failed: {why}.", next_command="invoke lab.down")
    return done.stdout


def start(argv: tuple[str, ...], log: Path) -> None:
    """Start a process that outlives this one: nobody's child, in a session of its own, with no open file of ours."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        subprocess.run(
            ("setsid", "--fork", *argv),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd="/",
            env=environment(),
            check=True,
            timeout=60,
        )
