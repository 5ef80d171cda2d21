# SPDX-License-Identifier: Apache-2.0
"""A job: blocks on their way, in either direction, between the engine's thread and one that moves them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .metadata import LoadSpec, SaveSpec
from .transport.base import Guard


class Job:
    """Blocks on their way; ends once, with None for success or a cause of :mod:`.transport.base`.

    Two threads share a job, and each field has one writer at a time:

    ======================================  ======================================================================
    field                                   who writes it, and when
    ======================================  ======================================================================
    name, request_id, keys, blocks, absent  the engine's thread, before the job is queued
    fence, queued                           the engine's thread, before the job is queued
    held                                    the engine's thread: as it queues the job, and once more to let it go
    drained, given_up                       the engine's thread: the request was aborted, or does not wait any more
    called_off                              the engine's thread, once, before it takes the guard back
    begun                                   the moving thread, once, under the condition
    late                                    either, from False to True, before the job ends
    cause, ended                            who ends the job first, under the condition, ``cause`` before ``ended``
    ======================================  ======================================================================

    Args:
        spec: What is to be moved.
        keys: Names of the objects, one per block.
        condition: Shared by all jobs of a worker side; notified when one ends.
        fence: Waits until the kernels that write the blocks are done.
        held: The job waits for ``held`` to become False, or for a while.
    """

    def __init__(
        self,
        spec: LoadSpec | SaveSpec,
        keys: list[str],
        condition: threading.Condition,
        fence: Callable[[], None] | None = None,
        held: bool = False,
    ) -> None:
        self.name = spec.name if isinstance(spec, LoadSpec) else spec.request_id
        self.request_id = spec.request_id
        self.keys = keys
        self.blocks = spec.blocks
        self.absent = isinstance(spec, SaveSpec) and spec.absent
        self.fence = fence
        self.queued = time.monotonic()
        self.held = held
        self.guard = Guard()
        self.drained = False
        self.given_up = False
        self.called_off: str | None = None
        self.begun: float | None = None
        self.late = False
        self.cause: str | None = None
        self.ended = False
        self._condition = condition

    def begin(self) -> bool:
        """Take the job up in a moving thread; False if it was called off or has ended."""
        with self._condition:
            if self.ended or self.called_off is not None:
                return False
            self.begun = time.monotonic()
            return True

    def end(self, cause: str | None) -> bool:
        """Settle the job; False if it was settled before. What was called off fails for the reason it was."""
        with self._condition:
            if self.ended:
                return False
            self.cause = cause and (self.called_off or cause)
            self.ended = True
            self._condition.notify_all()
            return True
