"""Measures lines in a process of an engine, from its start; Python imports this by its name.

Engines end their children with SIGKILL, which leaves no time to write: figures are written all along.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from pathlib import Path

SECONDS = 2.0
PARTS = ("distributed/__init__.py", "distributed/yuanrong/*", "core/schedule_config.py", "core/scheduler.py")


def measure(folder: str, tools: str) -> None:
    """Measure until the process ends.

    Args:
        folder: Gets a file from each process.
        tools: Where coverage is installed.
    """
    sys.path.append(tools)
    from coverage import Coverage

    coverage = Coverage(
        data_file=str(Path(folder) / "all"), data_suffix=True, concurrency=["thread"], config_file=False,
        include=[f"*/vllm_ascend/{part}" for part in PARTS], messages=False,
    )  # fmt: skip
    coverage.set_option("run:disable_warnings", ["no-data-collected"])
    writing = threading.Lock()

    def write() -> None:
        # A thread that runs a new line meanwhile: the next time, then.
        with writing, contextlib.suppress(RuntimeError):
            coverage.save()

    def write_all_along() -> None:
        while True:
            threading.Event().wait(SECONDS)
            write()

    def begin_writing() -> None:
        threading.Thread(target=write_all_along, name="served-coverage", daemon=True).start()

    def begin_in_child() -> None:
        writing.release()
        begin_writing()

    coverage.start()  # a forked process goes on with it, into a file of its own
    begin_writing()
    atexit.register(write)
    os.register_at_fork(before=writing.acquire, after_in_parent=writing.release, after_in_child=begin_in_child)


if os.environ.get("SERVED_COVERAGE"):
    measure(os.environ["SERVED_COVERAGE"], os.environ["SERVED_COVERAGE_TOOLS"])
