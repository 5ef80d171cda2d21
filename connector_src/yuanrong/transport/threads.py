# SPDX-License-Identifier: Apache-2.0
"""Shares the copying of a batch among threads: one core does not fill a memory bus.

numpy copies and sums without the interpreter lock, so threads of one process do run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

from .base import batches

T = TypeVar("T")

#: Bytes for which another thread is worth waking: 0.1 ms of copying, several times what waking it takes.
SHARE_BYTES = 2 << 20
#: Smallest item that is worth sharing: below it numpy's calls are so short that threads wait for the lock between them.
ITEM_BYTES = 256 << 10


class CopyThreads:
    """The calling thread and its helpers, which start with the first large batch and end when this object is dropped.

    Args:
        count: Threads that copy one batch, with the calling one; 1 or more.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._helpers = futures.ThreadPoolExecutor(max(1, count - 1), "yuanrong-copy")

    def share(self, count: int, item_bytes: int, copy: Callable[[slice], T]) -> list[tuple[slice, T]]:
        """Cut a batch into one share a thread and copy them; returns when no thread is at it any more.

        Args:
            count: Items of the batch.
            item_bytes: Bytes of an item.
            copy: Copies the items of a slice.

        Returns:
            Each share with what ``copy`` returned for it, in order.

        Raises:
            Exception: What ``copy`` raised, once all threads have ended.
        """
        most = 1
        if item_bytes >= ITEM_BYTES:
            most = max(1, min(self._count, count * item_bytes // SHARE_BYTES))
        shares = batches(count, 1, -(-count // most), count)
        others = [self._helpers.submit(copy, share) for share in shares[1:]]
        try:
            done = [copy(share) for share in shares[:1]]
        finally:
            futures.wait(others)
        return list(zip(shares, done + [other.result() for other in others], strict=True))
