"""The openyuanrong wheel, made to import, and without what cannot run.

As published, ``yr`` ends at its import: its libraries lie beside each other but do not say so (no rpath). With
``$ORIGIN`` as rpath they find each other. ``LD_LIBRARY_PATH`` is no way out: the DataSystem's worker, which ``yr``
starts, brings other builds of libraries with the same names.

Two kinds of files are left out: objects that want a library which neither the wheel nor any system has, and second
copies under names that nothing asks for (a wheel has no symbolic links, so a library is in it up to three times).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from yrpd.building.elf import needed
from yrpd.building.toolbox import patchelf
from yrpd.wheels.wheelfile import executables, read_wheel, write_wheel

NAME = "openyuanrong"
FOLDER = "yr"
RPATH = "$ORIGIN"
LOADER = "yr/__init__.py"  # loads libraries by name before anything else
# Part of the image's inputs: raise it whenever the result changes.
RECIPE = "openyuanrong-rpath-1"
# What glibc and the compiler bring to every machine, and CANN to an Ascend host.
SYSTEM = (
    "ld-linux-",
    "libc.so",
    "libdl.so",
    "libgcc_s.so",
    "libm.so",
    "libpthread.so",
    "librt.so",
    "libstdc++.so",
    *("libascendcl.so", "libhccl.so", "libhccl_plf.so", "libra.so", "libruntime.so"),
)


@dataclass(frozen=True)
class Selection:
    """What happens to the wheel's shared objects.

    Attributes:
        repaired: Get the rpath.
        unusable: Left out; each wants a library that is nowhere. Name to that library.
        copies: Left out; each is another file's content under a name that nothing asks for.
    """

    repaired: tuple[str, ...]
    unusable: Mapping[str, str]
    copies: tuple[str, ...]


def select(files: Mapping[str, bytes]) -> Selection:
    """Say which shared objects of the wheel's folder stay.

    Args:
        files: The wheel's files by name.
    """
    objects = {
        PurePosixPath(name).name: name
        for name, data in sorted(files.items())
        if str(PurePosixPath(name).parent) == FOLDER and ".so" in PurePosixPath(name).name and data[:4] == b"\x7fELF"
    }
    wants = {base: needed(files[name]) for base, name in objects.items()}
    unusable = _unusable(wants)
    usable = sorted(objects.keys() - unusable.keys())
    loader = files.get(LOADER, b"").decode("utf-8")
    asked = {one for base in usable for one in wants[base]} | {base for base in usable if f'"{base}"' in loader}
    copies = _unasked_copies({base: files[objects[base]] for base in usable}, asked)
    return Selection(
        tuple(objects[base] for base in usable if base not in copies),
        {objects[base]: missing for base, missing in sorted(unusable.items())},
        tuple(sorted(objects[base] for base in copies)),
    )


def _unusable(wants: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return each object that wants a library which is nowhere, or which is itself unusable, with that library."""
    found: dict[str, str] = {}

    def missing(base: str) -> str:
        needed_here = (one for one in wants[base] if not one.startswith(SYSTEM))
        return next((one for one in needed_here if one not in wants or one in found), "")

    while fresh := {base: library for base in sorted(wants.keys() - found.keys()) if (library := missing(base))}:
        found |= fresh
    return found


def _unasked_copies(contents: Mapping[str, bytes], asked: Set[str]) -> set[str]:
    """Return the names that go because another name has the same content, and nothing asks for this one."""
    names_of: dict[str, list[str]] = {}
    for base, data in contents.items():
        names_of.setdefault(hashlib.sha256(data).hexdigest(), []).append(base)
    copies: set[str] = set()
    for names in names_of.values():
        unasked = set(names) - asked
        # At least one name stays, the longest: it is the one with the whole version.
        copies |= unasked - {max(names, key=len)} if len(unasked) == len(names) else unasked
    return copies


def prepare_wheel(source: Path, target: Path) -> Selection:
    """Write the prepared wheel; preparing a prepared one gives the same bytes.

    Args:
        source: The wheel as published, or as an engineer built it.
        target: The new file.

    Raises:
        BuildError: patchelf failed.
    """
    files = read_wheel(source)
    selection = select(files)
    for name in (*selection.unusable, *selection.copies):
        del files[name]
    with tempfile.TemporaryDirectory() as scratch:
        for name in selection.repaired:
            files[name] = _with_rpath(files[name], Path(scratch) / PurePosixPath(name).name)
    write_wheel(target, files, executable=executables(source))
    return selection


def _with_rpath(data: bytes, path: Path) -> bytes:
    path.write_bytes(data)
    if patchelf(path, "--print-rpath").strip() != RPATH:
        patchelf(path, "--set-rpath", RPATH)
    return path.read_bytes()
