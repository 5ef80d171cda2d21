"""The C compiler of the build host, for shared objects of a few lines."""

from __future__ import annotations

import subprocess
from pathlib import Path

from yrpd.building.toolbox import find_tool
from yrpd.errors import BuildError


def compile_shared(source: Path, output: Path, soname: str, *, version_script: Path | None = None) -> None:
    """Compile one C file into a shared object that needs nothing at all.

    Args:
        source: The C file.
        output: The shared object.
        soname: Its DT_SONAME.
        version_script: GNU ld version script, when symbols need versions.

    Raises:
        BuildError: The compiler failed.
        EnvironmentFailure: There is none.
    """
    # Without an ident: a compiler's update must not change the object, whose bytes are an image's.
    command = [find_tool("gcc"), "-shared", "-fPIC", "-O1", "-fno-ident", "-nostdlib", "-Wl,--build-id=none", "-s"]
    command += [f"-Wl,-soname,{soname}", "-o", str(output), source.name]
    if version_script is not None:
        command.append(f"-Wl,--version-script={version_script}")
    # In the source's folder, so that no path of this machine gets into the object.
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"The C compiler could not make {soname}: {done.stderr.strip()[-300:]}"
        raise BuildError(message, next_command="apt-get install gcc libc6-dev")
