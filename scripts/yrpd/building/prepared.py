"""Wheels that are made here out of published ones, kept beside the downloads by what they are made from."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from yrpd.project import write_json
from yrpd.wheels.index import Wheel
from yrpd.wheels.wheelhouse import Stored, hash_file


def kept(folder: Path, name: str, version: str, file: str) -> Stored | None:
    """Return a wheel that was made before, when it is whole."""
    path = folder / file
    try:
        sha256 = str(json.loads((folder / "made.json").read_text(encoding="utf-8"))["sha256"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    if not path.exists() or hash_file(path) != sha256:
        return None
    return Stored(Wheel(name, version, file, sha256), path)


@contextlib.contextmanager
def making(folder: Path, file: str) -> Iterator[Path]:
    """Give a place to write a wheel to; it appears in the folder only when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / file
        yield path
        sha256 = hash_file(path)
        os.replace(path, folder / file)
    write_json(folder / "made.json", {"sha256": sha256})


def with_build_tag(file: str, tag: str) -> str:
    """Return a wheel's file name with a build tag, which says that it is not the published one (PEP 427)."""
    name, version, *rest = file.removesuffix(".whl").split("-")
    return "-".join([name, version, tag, *rest[-3:]]) + ".whl"
