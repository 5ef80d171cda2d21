"""Stand-ins for CANN's libraries: what the DataSystem client's device plugin is linked to, over host memory.

On them run the real ``libacl_plugin.so`` and the real ``HeteroClient``. Compiled once for each content of the sources.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
#: CANN's generations by the names that libra.so gives its functions.
GENERATIONS = ("8.5", "8.2")
#: What the client says of a plugin that does not load: one of its threads why, the others what they found there.
PLUGIN_NOT_LOADED = r"Load Ascend plugin failed|The pointer \[DSAclrt\w+\] is null"
#: The sources of each library that does something. libascendcl.so calls libruntime.so, as CANN's does.
_SOURCES = {
    "libruntime": ("copying.cpp", "faults.cpp", "streams.cpp", "notify.cpp", "ffts.cpp"),
    "libascendcl": ("acl_devices.cpp", "acl_batch.cpp", "acl_streams.cpp", "acl_events.cpp"),
}
_NODES = "libdevice_nodes.so"


def build(cache: Path, generation: str = "8.5", compiler: str = "g++") -> Path:
    """Compile the libraries, unless that was done.

    Args:
        cache: Folder that keeps compiled libraries, by digest.
        generation: One of ``GENERATIONS``.
        compiler: What compiles; one of another machine makes them for that machine.

    Returns:
        The folder of the libraries, and of a folder ``dev`` with the node of one device.

    Raises:
        subprocess.CalledProcessError: The compiler refused; its words are on stderr.
    """
    content = b"".join(file.read_bytes() for file in sorted(HERE.glob("*.*")) if file.suffix != ".pyc")
    digest = hashlib.sha256(f"{generation} {compiler}\n".encode() + content).hexdigest()[:16]
    folder = cache / "emulated-cann" / digest
    if folder.exists():
        return folder
    partial = folder.with_name(f"{digest}.{os.getpid()}")
    (partial / "dev").mkdir(parents=True)
    (partial / "dev" / "davinci0").touch()
    print(f"--> compiling the CANN stand-ins, names of {generation}, with {compiler}", file=sys.stderr)
    absent: dict[str, list[str]] = tomllib.loads((HERE / "absent.toml").read_text(encoding="utf-8"))
    if generation != "8.5":
        absent["libra"] = [snake(name) for name in absent["libra"]]
    for library in ("libruntime", "libascendcl", "libhccl", "libhccl_plf", "libra"):
        stubs = partial / f"{library}.cpp"
        stubs.write_text(_stubs(library, absent[library]), encoding="utf-8")
        sources = [*(str(HERE / source) for source in _SOURCES.get(library, ())), str(stubs)]
        others = [] if library == "libruntime" else ["-L", str(partial), "-lruntime", "-Wl,-rpath,$ORIGIN"]
        _compile(compiler, partial / f"{library}.so", sources, [f"-Wl,-soname,{library}.so", *others])
    _compile(compiler, partial / _NODES, [str(HERE / "nodes.cpp")], ["-ldl"])
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return folder


def variables(folder: Path, before: str | None = None) -> dict[str, str]:
    """Return the environment variables of a process that finds these libraries, and the node of a device.

    Args:
        folder: What ``build`` returned, as the process sees it.
        before: Its LD_LIBRARY_PATH without them; None is this process's.
    """
    path = os.environ.get("LD_LIBRARY_PATH", "") if before is None else before
    return {
        "LD_LIBRARY_PATH": f"{folder}{os.pathsep}{path}" if path else str(folder),
        "LD_PRELOAD": str(folder / _NODES),
        "EMULATED_CANN_NODES": str(folder / "dev"),
    }


def snake(name: str) -> str:
    """Return the name that a function of libra.so has below CANN 8.5."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _compile(compiler: str, library: Path, sources: list[str], options: list[str]) -> None:
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-pthread", "-I", str(HERE)]
    subprocess.run([*command, *sources, "-o", str(library), *options], check=True)


def _stubs(library: str, names: list[str]) -> str:
    bodies = [f'int {name}() {{ cann::absent("{name} ({library}.so)"); }}' for name in names]
    return "\n".join(['#include "runtime.h"', 'extern "C" {', *bodies, "}", ""])
