#!/usr/bin/env python3
"""Benchmark of the connector: ``.venv/bin/python scripts/bench_connector.py``.

Goes over into the environment of ``invoke build --flavour cpu``, with this environment's tools behind its packages.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from workshop.bench.inside import parse
from yrpd.cli import execute
from yrpd.errors import EnvironmentFailure
from yrpd.project import Project, read_state
from yrpd.release import load_release
from yrpd.reporting import Reporter

INNER = "import sys; sys.path.append(sys.argv.pop(1)); from workshop.bench.inside import main; main()"


def enter(project: Project, _: Reporter) -> dict[str, object]:
    """Become the benchmark; returns only by replacing the process.

    Raises:
        EnvironmentFailure: The environment was not built.
    """
    pin, _pin = load_release(project.release_file).pin()
    python = project.root / read_state(project, pin).get("build-cpu", {}).get("python", "missing")
    if not python.is_file():
        raise EnvironmentFailure(
            f"The cpu environment of {pin} was not built.", next_command="invoke patch build --flavour cpu"
        )
    environment = {
        **os.environ,
        "PYTHONPATH": str(project.root / "scripts"),
        "VLLM_PLUGINS": "",
        "VLLM_USE_V1": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    tools = sysconfig.get_path("purelib")
    os.execve(python, [str(python), "-c", INNER, tools, *sys.argv[1:]], environment)  # noqa: S606 - the point


if __name__ == "__main__":
    options = parse()
    execute(enter, as_json=options.json, verbose=options.verbose)
