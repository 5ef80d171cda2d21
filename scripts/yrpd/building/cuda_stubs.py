"""Stand-ins for the CUDA libraries that torch's published wheel names and a CPU never calls.

The package index carries torch for x86-64 Linux only as a CUDA build. Its libraries name cuBLAS, cuDNN, cuFFT, cuRAND,
cuSOLVER, cuSPARSE, CUPTI, NCCL and, since torch 2.8, cuFile as DT_NEEDED, 2.9 GB in all, so the loader wants files of
these names although nothing in them runs without a GPU. torch binds lazily, so a file that defines the wanted functions
is enough. Here each of them returns 1, "failed" in every one of these libraries, so a call that should not happen is an
error and not a wrong result. The CUDA runtime itself is the real one and reports "no device".
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from yrpd.building.compiler import compile_shared
from yrpd.building.elf import Wanted, needed, wanted_symbols
from yrpd.wheels.wheelfile import pure_metadata, write_wheel

# Part of the image's inputs: raise it whenever the result changes.
RECIPE = "cuda-stubs-2"
NAME = "yrpd_cuda_stubs"
TAG = "py3-none-manylinux_2_5_x86_64"
# torch's own libraries look in their folder last ($ORIGIN ends their rpath).
FOLDER = "torch/lib"
_SONAME = re.compile(
    r"^lib(cublas|cublasLt|cudnn|cufft|cufile|cupti|curand|cusolver|cusparse|cusparseLt|nccl|nvToolsExt)\.so\.\d+$"
)
_NAME = re.compile(r"^[A-Za-z_]\w*$")


def assign(libraries: Iterable[str], wanted: Iterable[Wanted]) -> dict[str, dict[str, str]]:
    """Say which stand-in defines which symbol.

    A versioned symbol names its library; one without a version goes to the library with the longest fitting name.

    Args:
        libraries: Every DT_NEEDED of the loaded libraries.
        wanted: Every undefined symbol of them.

    Returns:
        By stand-in: symbol name to version node (empty for none).
    """
    prefixes = {match[1].lower(): name for name in sorted(set(libraries)) if (match := _SONAME.match(name))}
    stubs: dict[str, dict[str, str]] = {name: {} for name in prefixes.values()}
    for symbol in wanted:
        if symbol.library:
            if symbol.library in stubs:
                stubs[symbol.library][symbol.name] = symbol.version
            continue
        lowered = symbol.name.lower()  # libcufile's functions begin with "cuFile"
        fitting = [prefix for prefix in prefixes if lowered.startswith(prefix)]
        if fitting:
            stubs[prefixes[max(fitting, key=len)]].setdefault(symbol.name, "")
    return stubs


def stub_source(symbols: Mapping[str, str]) -> str:
    """Return the C source of a stand-in: every function reports failure."""
    names = [name for name in sorted(symbols) if _NAME.match(name)]
    return "".join(f"int {name}(void) {{ return 1; }}\n" for name in names) or "int yrpd_empty;\n"


def version_script(symbols: Mapping[str, str]) -> str:
    """Return the GNU ld version script that gives each symbol its version node."""
    nodes: dict[str, list[str]] = {}
    for name in sorted(symbols):
        if symbols[name]:
            nodes.setdefault(symbols[name], []).append(name)
    return "".join(f"{node} {{ global: {'; '.join(names)}; }};\n" for node, names in sorted(nodes.items()))


def make_stubs(torch_wheel: Path, version: str, target: Path) -> dict[str, int]:
    """Write a wheel with a stand-in for each CUDA library that a torch wheel names.

    Args:
        torch_wheel: The published torch wheel.
        version: Version of the new wheel; torch's own is a good one.
        target: The new file.

    Returns:
        Stand-in to its number of functions.
    """
    libraries: list[str] = []
    wanted: list[Wanted] = []
    with zipfile.ZipFile(torch_wheel) as archive:
        for name in sorted(archive.namelist()):
            if not (name.startswith(f"{FOLDER}/") and name.endswith(".so")):
                continue
            data = archive.read(name)
            libraries += needed(data)
            wanted += wanted_symbols(data)
    stubs = assign(libraries, wanted)
    files = pure_metadata(NAME, version, "Stand-ins for CUDA libraries that a CPU never calls", TAG)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for soname, symbols in stubs.items():
            (folder / "stub.c").write_text(stub_source(symbols), encoding="ascii")
            (folder / "stub.map").write_text(version_script(symbols), encoding="ascii")
            script = folder / "stub.map" if any(symbols.values()) else None
            compile_shared(folder / "stub.c", folder / soname, soname, version_script=script)
            files[f"{FOLDER}/{soname}"] = (folder / soname).read_bytes()
    write_wheel(target, files)
    return {soname: len(symbols) for soname, symbols in stubs.items()}
