"""Programs of aarch64, each run by QEMU in user mode."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: ARMv8.2 without SVE, as the Kunpeng 920 of Atlas servers is.
PROCESSOR = "neoverse-n1"
PYTHON = "/usr/bin/python3.11"


@dataclass(frozen=True)
class Guest:
    """A Debian root, and what its programs find.

    Attributes:
        root: The root: where a path is there, too, programs see it and not this machine's.
        packages: Folders of Python packages.
        variables: Environment variables of the programs.
    """

    root: Path
    packages: tuple[Path, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def command(self, *argv: str) -> list[str]:
        """Return the command line that runs a program of aarch64.

        A program that it starts in turn is this machine's: the kernel knows nothing of QEMU.
        """
        # As arguments, because the loader of QEMU itself must not see LD_LIBRARY_PATH.
        given = {"PYTHONPATH": ":".join(map(str, self.packages)), "PYTHONDONTWRITEBYTECODE": "1", **self.variables}
        options = [word for name, value in given.items() for word in ("-E", f"{name}={value}")]
        return ["qemu-aarch64", "-cpu", PROCESSOR, "-L", str(self.root), *options, *argv]

    def python(self, *arguments: str) -> list[str]:
        """Return the command line that runs Python of aarch64."""
        return self.command(f"{self.root}{PYTHON}", *arguments)

    def ask(self, script: str, *arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a script of Python, and return what it said.

        Args:
            script: The script.
            arguments: Its arguments.
            seconds: After them it is ended.

        Raises:
            subprocess.TimeoutExpired: It did not end in time.
        """
        words: Sequence[str] = self.python("-c", script, *arguments)
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds)
