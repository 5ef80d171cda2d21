"""Proof that a lock is complete: whatever a locked package requires is in the lock, in a version that it accepts.

Only such a lock may be installed without resolving, and only an installation that does not resolve is the same next
year. uv proves it: it resolves the lock once more, with the locked wheels as all that there is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from uv import find_uv_bin

from yrpd.errors import ConfigurationError
from yrpd.wheels.locks import REGENERATE, Lock


def require_complete(
    lock: Lock, wheels: Iterable[Path], docker: Path, *, python: tuple[int, int], platform: str
) -> None:
    """Prove one of the images' locks, for the oldest patch release of a Python.

    What the lock was made for (its ``.in`` file) counts, with its extras, and so do the ``.overrides``.

    Args:
        lock: What is proved.
        wheels: Its wheels.
        docker: The folder with the ``.in`` and ``.overrides`` files.
        python: The version of the Python that they are for.
        platform: Its machine and C library, such as ``x86_64-manylinux_2_36``.

    Raises:
        ConfigurationError: Something that a package requires is not in the lock.
    """
    with tempfile.TemporaryDirectory() as scratch:
        links, pins = Path(scratch) / "wheels", Path(scratch) / f"{lock.name}.lock"
        links.mkdir()
        for path in wheels:
            (links / path.name).symlink_to(path.absolute())
        pins.write_text("".join(f"{one.name}=={one.version}\n" for one in lock.entries), encoding="utf-8")
        command = [find_uv_bin(), "pip", "compile", "--quiet", "--no-config", "--no-cache", "--offline", "--no-index"]
        command += ["--find-links", str(links), "--only-binary", ":all:", "--python", sys.executable]
        command += ["--python-version", f"{python[0]}.{python[1]}", "--python-platform", platform, str(pins)]
        if (docker / f"{lock.name}.in").exists():
            command.append(str(docker / f"{lock.name}.in"))
        if (docker / f"{lock.name}.overrides").exists():
            command += ["--overrides", str(docker / f"{lock.name}.overrides")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = " ".join(done.stderr.rpartition("cause:")[2].split())
        message = f"{lock.name}.lock is not complete: {reason}"
        raise ConfigurationError(message, next_command=REGENERATE, detail=done.stderr)
