"""Wheels that are made here out of published ones, kept beside the downloads by what they are made from."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from yrpd.project import hash_file, write_json
from yrpd.wheels.wheelhouse import Wheel


def kept_or_made(folder: Path, name: str, version: str, file: str, make: Callable[[Path], None]) -> Wheel:
    """Return a wheel that is made here: the one that was made before, when it is whole, else a new one.

    Args:
        folder: Where it is kept; named by what it is made from.
        name: Its distribution.
        version: Its version.
        file: Its name.
        make: Writes it to a path; it appears in the folder only when it is complete.
    """
    path, stamp = folder / file, folder / "made.json"
    try:
        sha256 = str(json.loads(stamp.read_text(encoding="utf-8"))["sha256"])
        if hash_file(path) == sha256:
            return Wheel(name, version, sha256, path)
    except (FileNotFoundError, ValueError, KeyError):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fresh = Path(scratch) / file
        make(fresh)
        sha256 = hash_file(fresh)
        os.replace(fresh, path)
    write_json(stamp, {"sha256": sha256})
    return Wheel(name, version, sha256, path)


def with_build_tag(file: str, tag: str) -> str:
    """Return a wheel's file name with a build tag, which says that it is not the published one (PEP 427)."""
    name, version, *rest = file.removesuffix(".whl").split("-")
    return "-".join([name, version, tag, *rest[-3:]]) + ".whl"
