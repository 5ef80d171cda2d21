"""A plugin of vLLM that breaks the connector of an engine while it serves, as a file says.

The file's content names a break of ``mutations.py``; without the file nothing is broken. Everything else is what a
deployment runs: the command line, the entry points, the classes.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

MUTATIONS = Path(__file__).parents[1] / "mutations.py"


class Follower:
    """Does what the file says.

    Args:
        path: The file.
        breaks: The breaks by name.
    """

    def __init__(self, path: Path, breaks: dict[str, Callable[[], Callable[[], None]]]) -> None:
        self._path = path
        self._breaks = breaks
        self._name = ""
        self._mend: Callable[[], None] | None = None

    def follow(self) -> None:
        """Break or mend if the file changed."""
        name = self._path.read_text() if self._path.exists() else ""
        if name == self._name:
            return
        if self._mend is not None:
            self._mend()
        self._name, self._mend = name, self._breaks[name]() if name else None


def register() -> None:
    """Look at the file before each step's loads and saves; vLLM calls this in each of its processes."""
    from vllm_ascend.distributed.yuanrong.worker import WorkerSide

    spec = importlib.util.spec_from_file_location("mutations", MUTATIONS)
    assert spec is not None
    assert spec.loader is not None
    mutations = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutations)
    follower = Follower(Path(os.environ["EMULATED_NPU_BREAK"]), mutations.BY_NAME)
    start = WorkerSide.start

    def follow_and_start(self: Any, plan: Any) -> None:
        follower.follow()
        start(self, plan)

    WorkerSide.start = follow_and_start
