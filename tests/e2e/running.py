"""Runs the project's commands as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yrpd.project import Project

ROOT = Project.here().root
FULL = bool(os.environ.get("YRPD_TEST_FULL"))
INVOKE = str(Path(sys.executable).parent / "invoke")


@dataclass(frozen=True)
class Run:
    """What a command left.

    Attributes:
        code: Its exit code.
        out: Its standard output.
        err: Its standard error.
    """

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document of ``--json``."""
        loaded: dict[str, Any] = json.loads(self.out)
        return loaded


def command(*argv: str, environment: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Run:
    """Run a command of the project's as a user of the cpu flavour."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, "YRPD_FLAVOUR": "cpu", **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def tail(run: Run) -> str:
    """The part of a run's output that a failed assertion shows."""
    return f"exit {run.code}\n{run.out[-3000:]}\n{run.err[-6000:]}"
