"""Measures lines in a process of an engine, from its start; Python imports this by its name.

Engines end their children with SIGKILL, which leaves no time to write: figures are written all along.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import uuid
from pathlib import Path
from typing import cast

SECONDS = 1.0
PARTS = ("distributed/__init__.py", "distributed/yuanrong/*", "core/schedule_config.py", "core/scheduler.py")


def measure(folder: str, tools: str) -> None:
    """Measure until the process ends.

    Args:
        folder: Gets a file from each process.
        tools: Where coverage is installed.
    """
    sys.path.append(tools)
    from coverage import Coverage, CoverageData

    coverage = Coverage(
        data_file=None, concurrency=["thread"], config_file=False,
        include=[f"*/vllm_ascend/{part}" for part in PARTS], messages=False,
    )  # fmt: skip
    coverage.set_option("run:disable_warnings", ["no-data-collected"])
    writing = threading.Lock()
    written = 0
    name = uuid.uuid4().hex

    def write() -> None:
        """Write all lines so far, over what was written before.

        ``Coverage.save`` would write and then clear what it collected, and lose each line that another thread executes
        for the first time in between: a copy of the collected sets is taken instead, and nothing is cleared.
        """
        nonlocal written
        collector = coverage._collector
        assert collector is not None
        with writing:
            collected = cast(dict[str, set[int]], collector.data)  # lines, not branches
            lines = {file: found.copy() for file, found in collected.copy().items()}
            count = sum(len(found) for found in lines.values())
            if count == written:
                return
            draft = Path(folder) / f"draft.{name}"
            data = CoverageData(str(draft))
            data.add_lines(lines)
            data.close(force=True)
            draft.replace(Path(folder) / f"all.{name}")
            written = count

    def write_all_along() -> None:
        while True:
            threading.Event().wait(SECONDS)
            with contextlib.suppress(OSError):  # at the end of a test run its folder may go first
                write()

    def begin_writing() -> None:
        threading.Thread(target=write_all_along, name="served-coverage", daemon=True).start()

    def begin_in_child() -> None:
        nonlocal written, name
        written, name = 0, uuid.uuid4().hex
        writing.release()
        begin_writing()

    coverage.start()  # a forked process goes on with it, into a file of its own
    begin_writing()
    atexit.register(write)
    os.register_at_fork(before=writing.acquire, after_in_parent=writing.release, after_in_child=begin_in_child)


if os.environ.get("SERVED_COVERAGE"):
    measure(os.environ["SERVED_COVERAGE"], os.environ["SERVED_COVERAGE_TOOLS"])
