"""The emulated device's library: compiled once for each content of its source and each torch."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("npu.cpp")


def build(python: Path, cache: Path) -> Path:
    """Compile the device for the torch of an environment, unless that was done.

    Args:
        python: Interpreter of the environment.
        cache: Folder that keeps compiled libraries, by digest.

    Returns:
        The library.

    Raises:
        subprocess.CalledProcessError: The compiler refused; its words are on stderr.
    """
    script = "import torch; print(torch.__file__, torch.__version__, int(torch._C._GLIBCXX_USE_CXX11_ABI))"
    out = subprocess.run([str(python), "-c", script], check=True, capture_output=True, text=True).stdout
    file, version, abi = out.split()
    return compile_for(Path(file).parent, version, abi, cache)


def compile_for(torch: Path, version: str, abi: str, cache: Path, compiler: str = "g++") -> Path:
    """Compile the device for a torch, unless that was done.

    Args:
        torch: Its package.
        version: Its version.
        abi: ``1`` if it has C++11's strings, else ``0``.
        cache: Folder that keeps compiled libraries, by digest.
        compiler: What compiles; one of another machine makes the device for that machine.

    Returns:
        The library.

    Raises:
        subprocess.CalledProcessError: The compiler refused; its words are on stderr.
    """
    digest = hashlib.sha256(f"{version} {abi} {compiler}\n".encode() + SOURCE.read_bytes()).hexdigest()[:16]
    library = cache / "emulated-npu" / digest / "libemulated_npu.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    partial = library.with_suffix(f".{os.getpid()}")
    print(f"--> compiling the emulated NPU for torch {version}, with {compiler}", file=sys.stderr)
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-w", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    command += [f"-I{torch}/include", f"-I{torch}/include/torch/csrc/api/include", str(SOURCE), "-o", str(partial)]
    command += [f"-L{torch}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch}/lib"]
    subprocess.run(command, check=True)
    partial.replace(library)
    return library
