# SPDX-License-Identifier: Apache-2.0
"""What a transport is: three calls whose failures are data, and the guard that keeps I/O off recycled blocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

MISSING = "missing"  #: the key is not there (evicted, expired, never written)
CORRUPT = "corrupt"  #: the object is there, but its header, length or checksum is wrong
LAYOUT = "layout"  #: the object is whole, but of another inner form
TIMEOUT = "timeout"  #: a deadline passed
UNAVAILABLE = "unavailable"  #: the DataSystem cannot be reached, or its breaker is open
REVOKED = "revoked"  #: the blocks were taken back before or during the transfer
FULL = "full"  #: the DataSystem has no memory left
ERROR = "error"  #: anything else

#: Causes that say something about the DataSystem and not about one object.
OUTAGE = frozenset({TIMEOUT, UNAVAILABLE})


def classify(error: BaseException) -> str:
    """Name the cause behind an exception of the DataSystem client, which raises RuntimeError for everything."""
    text = str(error).lower()
    if "not found" in text and "rpc" not in text:
        return MISSING
    if "timeout" in text or "timed out" in text or "deadline" in text:
        return TIMEOUT
    if any(word in text for word in ("unavailable", "not ready", "connect", "disconnect", "network", "shutdown")):
        return UNAVAILABLE
    if "out of memory" in text or "no space" in text:
        return FULL
    return ERROR


@dataclass(frozen=True)
class Presence:
    """Answer of ``exist``: one flag per key; on an error all flags are False and ``cause`` tells why.

    Attributes:
        found: Whether each key can be read; False for what was not asked.
        cause: Why there is no answer.
        asked: Of how many of the first keys this is an answer; None for all of them.
    """

    found: list[bool]
    cause: str | None = None
    asked: int | None = None


@dataclass(frozen=True)
class Transfer:
    """Answer of ``get`` and ``put``: per key None for done, or the cause of its failure; and the bytes moved."""

    causes: list[str | None]
    moved_bytes: int = 0

    @property
    def cause(self) -> str | None:
        """Return the first failure, or None if every key went through."""
        return next((cause for cause in self.causes if cause is not None), None)

    @classmethod
    def failed(cls, count: int, cause: str) -> Transfer:
        """Return a transfer in which no key went through."""
        return cls([cause] * count)


class Guard:
    """Permission of one job to touch KV blocks, which the engine can take back.

    A transport calls ``enter`` before it reads or writes device memory and ``leave`` after it. Once ``revoke`` has
    returned True, no byte of the job's blocks is touched any more, whatever the transport's threads still do.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._revoked = False

    @property
    def revoked(self) -> bool:
        """Whether permission was taken back."""
        return self._revoked

    def enter(self) -> bool:
        """Begin to touch blocks; False means: do not."""
        with self._condition:
            if self._revoked:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        """End what ``enter`` began."""
        with self._condition:
            self._inside -= 1
            self._condition.notify_all()

    def revoke(self, timeout: float | None = None) -> bool:
        """Let nobody enter any more, and wait up to ``timeout`` seconds (None: forever) until nobody is inside."""
        with self._condition:
            self._revoked = True
            return self._condition.wait_for(lambda: self._inside == 0, timeout)


class Transport(Protocol):
    """Moves blocks between device memory and the DataSystem. No method raises; every call ends by its deadline."""

    def exist(self, keys: Sequence[str]) -> Presence:
        """Tell which keys can be read."""
        ...

    def get(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Fill ``blocks[i]`` from the object ``keys[i]``."""
        ...

    def put(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Publish ``blocks[i]`` as the object ``keys[i]``, evictable."""
        ...

    def fence(self) -> Callable[[], None]:
        """Mark the work queued on the device so far; the returned function waits, in any thread, until it is done."""
        ...

    def close(self) -> None:
        """Drop the connection."""
        ...


def batches(count: int, item_bytes: int, batch_bytes: int, max_items: int) -> list[slice]:
    """Cut ``count`` items into slices of at most ``batch_bytes`` and ``max_items``, each of one item or more."""
    size = max(1, min(max_items, batch_bytes // max(1, item_bytes)))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
