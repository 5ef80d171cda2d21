# SPDX-License-Identifier: Apache-2.0
"""How much a saving call asks the DataSystem to take, and when it is not asked at all.

A DataSystem without room does not say so at once: the call tries again until its timeout, and the host's client holds
the interpreter lock meanwhile. So one such answer is all that a put pays for, the next put asks for one block, and what
fits grows from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .base import FULL

_MAX_BACKOFF = 8
#: Calls of the largest size that fitted, before a larger one is tried again; doubles each time.
_PATIENCE = 100


class Room:
    """What is known of the DataSystem's room; used by the saving thread alone.

    Args:
        limit: Most bytes of a call.
        pause: Seconds without any call after a put that found no room; doubles up to eight times that while none does.
        budget: Seconds after which a put makes no other call if those so far found no room: less than a call's timeout,
            so that one that waited for room to its end is the last, and one that was refused at once is not.
        clock: Monotonic seconds.
    """

    def __init__(self, limit: int, pause: float, budget: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._first_pause = self._pause = pause
        self._budget = budget
        self._clock = clock
        self._bytes = self._ceiling = limit
        self._calls, self._patience = 0, _PATIENCE
        self._closed_until = float("-inf")

    def put(
        self, count: int, item_bytes: int, max_items: int, put: Callable[[slice], list[str | None]]
    ) -> list[str | None]:
        """Put items in calls of a size that has room.

        Args:
            count: Items.
            item_bytes: Bytes of each.
            max_items: Most items of a call.
            put: Puts the items of a slice. Returns, for them or the first of them up to a failure, None for done or the
                cause.

        Returns:
            The same, for all items or the first of them up to a failure.
        """
        if self._clock() < self._closed_until:
            return [FULL]
        causes: list[str | None] = []
        spent = 0.0
        while len(causes) < count:
            size = min(max(1, self._bytes // item_bytes), max_items, count - len(causes))
            begin = self._clock()
            done = put(slice(len(causes), len(causes) + size))
            if done[0] == FULL:
                spent += self._clock() - begin
                self._did_not_fit(size, item_bytes)
                if size > 1 and spent < self._budget:
                    continue
                self._close()
                return causes + done
            causes += done
            if any(done):
                break
            self._fitted(size * item_bytes)
        return causes

    def _did_not_fit(self, size: int, item_bytes: int) -> None:
        if size > 1:
            self._ceiling = max(item_bytes, size * item_bytes // 2)
        else:  # not even one: its size is not what is wrong
            self._ceiling = self._limit
        self._bytes = item_bytes
        self._calls = 0

    def _fitted(self, size: int) -> None:
        self._pause = self._first_pause
        self._calls += 1
        if self._calls >= self._patience and self._ceiling < self._limit:
            self._calls, self._patience = 0, 2 * self._patience
            self._ceiling *= 2
        self._bytes = min(self._limit, self._ceiling, max(self._bytes, 2 * size))

    def _close(self) -> None:
        self._closed_until = self._clock() + self._pause
        self._pause = min(2 * self._pause, _MAX_BACKOFF * self._first_pause)
