"""Stand-ins for what torch-npu imports from CANN beyond the emulated NPU's path: there by name, ended when called."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.emulated_npu import cann

COMPILER, NM = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-nm"
#: CANN's and ATB's libraries that torch-npu's are linked to (`readelf -d`), without those of the emulated NPU, and the
#: one that it opens when it is imported. The names are all in the first.
LIBRARIES = ("libacl_op_compiler", "libge_runner", "libgraph", "libacl_tdt_channel", "libatb", "libopapi")


def build(cache: Path, packages: Path, root: Path, libraries: Path) -> Path:
    """Compile libraries with every name that torch-npu's import and nobody has, unless that was done.

    Args:
        cache: Folder that keeps them.
        packages: torch and torch-npu.
        root: The Debian root, with Python and the C library.
        libraries: What ``cann.build`` returned.

    Returns:
        Their folder.
    """
    own = [*packages.glob("torch_npu/lib/*.so"), *packages.glob("torch_npu/*.so")]
    system = [*root.glob("lib/aarch64-linux-gnu/lib*.so.*"), *root.glob("usr/lib/aarch64-linux-gnu/lib*.so.*")]
    others = [*packages.glob("torch/lib/*.so"), *libraries.glob("*.so"), *system, root / "usr/bin/python3.11"]
    names = sorted(_names(own, "--undefined-only") - _names([*own, *others], "--defined-only"))
    lines = [f'int {name}() {{ cann::absent("{name}"); }}' for name in names]
    source = "\n".join(['#include "runtime.h"', 'extern "C" {', *lines, "}", ""])
    folder = cache / "aarch64" / f"missing-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    (partial / "names.cpp").write_text(source, encoding="utf-8")
    (partial / "none.cpp").touch()
    for library in LIBRARIES:
        content = "names.cpp" if library == LIBRARIES[0] else "none.cpp"
        command = [COMPILER, "-std=c++17", "-fPIC", "-shared", "-I", str(cann.HERE), str(partial / content)]
        command += ["-o", str(partial / f"{library}.so"), f"-Wl,-soname,{library}.so", f"-L{libraries}", "-lruntime"]
        subprocess.run(command, check=True)
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return folder


def _names(files: Iterable[Path], which: str) -> set[str]:
    """Return the dynamic symbols of libraries, without their versions; weak ones may be missing and are left out."""
    command = [NM, "--dynamic", "--format=posix", which, *map(str, files)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[0].partition("@")[0] for row in rows if len(row) > 1 and row[1] not in "wv"}
