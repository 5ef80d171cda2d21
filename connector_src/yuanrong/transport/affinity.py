# SPDX-License-Identifier: Apache-2.0
"""Keeps the DataSystem client off the cores that an engine has bound itself to.

A new thread inherits the cores of the one that makes it. vLLM's CPU worker binds the thread that runs the model to
``VLLM_CPU_OMP_THREADS_BIND`` before the connector exists, vllm-ascend its processes to the cores near their NPU. A
client made there has all its threads on the engine's cores, where they wait for the model and the model for them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger("vllm.yuanrong")

T = TypeVar("T")


def process_cores() -> set[int]:
    """Return the cores that this process had before threads of it were bound.

    A binding is of one thread, so these are the cores of all its threads together, and of the process that started it:
    what an operator has set for the whole service (``taskset``, ``numactl``, a container's cpuset) stays in force. In a
    container whose first process this is, nobody can be asked: then all, which the kernel cuts to the cpuset.
    """
    parent = os.getppid()
    if parent == 0:
        return set(range(os.sysconf("SC_NPROCESSORS_CONF")))
    cores: set[int] = set()
    for task in [parent, *(int(entry.name) for entry in Path("/proc/self/task").iterdir())]:
        try:
            cores |= os.sched_getaffinity(task)
        except ProcessLookupError:  # it has just ended
            continue
    return cores


def unbind() -> None:
    """Let the calling thread, and those that it makes from now on, run on all cores of the process."""
    try:
        os.sched_setaffinity(0, process_cores())
    except OSError as error:
        logger.debug("this thread keeps its cores: %s", error)


def unbound(work: Callable[[], T]) -> T:
    """Do something in a thread that is not bound, and return its result.

    Raises:
        Exception: What ``work`` raised.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        unbind()
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    # A thread of an executor would hold up the end of the engine's process.
    threading.Thread(target=run, name="yuanrong-unbound", daemon=True).start()
    return outcome.result()
