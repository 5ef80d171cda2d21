"""Locked wheels of aarch64, unpacked into a folder for ``PYTHONPATH``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from yrpd.wheels.wheelhouse import Wheel


def unpack(cache: Path, wheels: Sequence[Wheel]) -> Path:
    """Unpack wheels beside each other, unless that was done.

    Python's files are compiled by this machine's Python of the same version: the emulated one takes ten times as long.

    Args:
        cache: Folder that keeps them, by their hashes.
        wheels: The wheels.

    Returns:
        The folder.
    """
    digest = hashlib.sha256("\n".join(sorted(wheel.sha256 for wheel in wheels)).encode()).hexdigest()[:16]
    folder = cache / "aarch64" / f"packages-{digest}"
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    for wheel in wheels:
        with zipfile.ZipFile(wheel.path) as archive:
            for member in archive.infolist():
                Path(archive.extract(member, partial)).chmod(0o755)  # wheels have programs among their files
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(partial)], check=False)  # some are templates
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return folder
