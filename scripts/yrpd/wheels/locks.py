"""Lock files of what goes into images: pip's requirements format, every line with its hashes.

The header of each lock names the command that made it. ``python -m yrpd.wheels.locks`` runs it for all locks and
writes the same bytes again when nothing has moved on the package index.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from yrpd.errors import ConfigurationError
from yrpd.wheels.pip_config import pip_options, uses_no_index, uv_environment

PYTHON = "3.11"
# Debian bookworm's glibc; wheels for it also run on anything newer.
GLIBC = (2, 36)
PLATFORM = f"x86_64-manylinux_{GLIBC[0]}_{GLIBC[1]}"
ENDPOINT = "endpoint"
NPU = "npu"
OPENYUANRONG = "openyuanrong"
DEPLOY = "deploy"
REGENERATE = "PYTHONPATH=scripts python -m yrpd.wheels.locks"

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:(?P<sha256>[0-9a-f]{64})\b")


@dataclass(frozen=True)
class Locked:
    """One locked distribution.

    Attributes:
        name: Canonical project name.
        version: Exact version.
        hashes: sha256 of every file of that version that may be used.
    """

    name: str
    version: str
    hashes: frozenset[str]


@dataclass(frozen=True)
class Lock:
    """A lock file's content.

    Attributes:
        name: The file's stem, such as ``runtime-cpu``.
        entries: Its distributions, in the file's order.
        sha256: Hash of the file's bytes.
    """

    name: str
    entries: tuple[Locked, ...]
    sha256: str


def parse_lock(text: str, source: str) -> tuple[Locked, ...]:
    """Read pip's requirements format; comments are skipped, line continuations joined.

    Args:
        text: The file's content.
        source: The file's name, for messages.

    Raises:
        ConfigurationError: A line is not ``name==version`` with sha256 hashes, or a name stands there twice.
    """
    entries: dict[str, Locked] = {}
    joined = re.sub(r"\\\n", " ", text)
    for number, line in enumerate(joined.splitlines(), start=1):
        stripped = line.split(" #")[0].strip()
        if not stripped or stripped.startswith("#"):
            continue
        pin = _PIN.match(stripped)
        hashes = frozenset(_HASH.findall(stripped))
        if pin is None or not hashes or ";" in stripped:
            message = f"{source}: entry {number} is not 'name==version' with sha256 hashes: {stripped[:80]!r}."
            raise ConfigurationError(message, next_command=REGENERATE)
        name = canonicalize_name(pin["name"])
        if name in entries:
            raise ConfigurationError(f"{source} locks {name} twice.", next_command=REGENERATE)
        entries[name] = Locked(name, pin["version"], hashes)
    return tuple(entries.values())


def read_lock(path: Path) -> Lock:
    """Read one lock file.

    Raises:
        ConfigurationError: It does not exist, or is not a lock.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} does not exist.", next_command=REGENERATE) from error
    entries = parse_lock(data.decode("utf-8"), path.name)
    return Lock(path.stem, entries, hashlib.sha256(data).hexdigest())


def stands_on_a_base(name: str) -> bool:
    """Return whether a lock leaves out what its wheels require, since the base image has it."""
    return name.partition("-")[0] == NPU


def compile_arguments(docker: Path, name: str) -> list[str]:
    """Return the uv command line that makes a lock, relative to the project's root."""
    arguments = ["uv", "pip", "compile", "--generate-hashes", "--only-binary", ":all:"]
    arguments += ["--python-version", PYTHON, "--python-platform", PLATFORM, "--no-annotate", "--quiet"]
    if stands_on_a_base(name):
        # Its packages are not to be touched.
        arguments.append("--no-deps")
    if (docker / f"{name}.overrides").exists():
        arguments += ["--overrides", f"docker/{name}.overrides"]
    return [*arguments, f"docker/{name}.in", "-o", f"docker/{name}.lock"]


def every_lock(docker: Path) -> list[str]:
    """Return the names of all locks, by what people edit."""
    return sorted(path.stem for path in docker.glob("*.in"))


def without_own_builds(options: Mapping[str, str]) -> dict[str, str]:
    """Return pip's options without local folders, beside the index: this machine's own builds belong into no lock.

    Args:
        options: pip's, by name.
    """
    if uses_no_index(options):
        return dict(options)
    extra = [one for one in options.get("extra-index-url", "").split() if not one.startswith("file:")]
    return {**options, "extra-index-url": " ".join(extra), "find-links": ""}


def regenerate(root: Path) -> list[Path]:
    """Make every lock anew from its ``.in`` and ``.overrides``; an existing lock's versions are kept where they fit."""
    made, options = [], without_own_builds(pip_options())
    for name in every_lock(root / "docker"):
        command = compile_arguments(root / "docker", name)
        program = Path(sys.executable).with_name("uv")
        header = f"{REGENERATE}, which runs: " + " ".join(command)
        environment = {**uv_environment(options), **os.environ, "UV_CUSTOM_COMPILE_COMMAND": header}
        subprocess.run([str(program), *command[1:]], cwd=root, check=True, env=environment)
        made.append(root / "docker" / f"{name}.lock")
    return made


if __name__ == "__main__":
    regenerate(Path(__file__).resolve().parents[3])
