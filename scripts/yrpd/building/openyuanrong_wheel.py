"""The openyuanrong wheel, made to import.

As published, ``yr`` ends at its import: its libraries lie beside each other but do not say so (no rpath). With
``$ORIGIN`` as rpath they find each other. ``LD_LIBRARY_PATH`` is no way out: the DataSystem's worker, which ``yr``
starts, brings other builds of libraries with the same names.
"""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath

from yrpd.building.toolbox import patchelf
from yrpd.wheels.wheelfile import executables, read_wheel, write_wheel

NAME = "openyuanrong"
FOLDER = "yr"
RPATH = "$ORIGIN"
# Part of the image's inputs: raise it whenever the result changes.
RECIPE = "openyuanrong-rpath-2"


def prepare_wheel(source: Path, target: Path) -> int:
    """Write the prepared wheel; preparing a prepared one gives the same bytes.

    Args:
        source: The wheel as published, or as an engineer built it.
        target: The new file.

    Returns:
        How many shared objects got the rpath.

    Raises:
        BuildError: patchelf failed.
    """
    files = read_wheel(source)
    repaired = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in files.items():
            inside = PurePosixPath(name)
            if str(inside.parent) != FOLDER or ".so" not in inside.name or data[:4] != b"\x7fELF":
                continue
            path = Path(scratch) / inside.name
            path.write_bytes(data)
            if patchelf(path, "--print-rpath").strip() != RPATH:
                patchelf(path, "--set-rpath", RPATH)
                repaired += 1
            files[name] = path.read_bytes()
            path.unlink()
    write_wheel(target, files, executable=executables(source))
    return repaired
