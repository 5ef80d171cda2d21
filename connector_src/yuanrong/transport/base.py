# SPDX-License-Identifier: Apache-2.0
"""What a transport is: three calls whose failures are data, and the guard that keeps I/O off recycled blocks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

logger = logging.getLogger("vllm.yuanrong")

MISSING = "missing"  #: the key is not there (evicted, expired, never written)
CORRUPT = "corrupt"  #: the object is there, but its header, length or checksum is wrong
LAYOUT = "layout"  #: the object is whole, but of another inner form
TIMEOUT = "timeout"  #: a deadline passed
UNAVAILABLE = "unavailable"  #: the DataSystem cannot be reached, or its breaker is open
REVOKED = "revoked"  #: the blocks were taken back before or during the transfer
FULL = "full"  #: the DataSystem has no memory left
ERROR = "error"  #: anything else
QUEUED = "queued"  #: no thread was free for it in time; no fault of the DataSystem
LATE = "late"  #: not published when its answer went out

#: Causes that say something about the DataSystem and not about one object.
OUTAGE = frozenset({TIMEOUT, UNAVAILABLE})


def classify(error: BaseException) -> str:
    """Name the cause behind an exception of the DataSystem client, which raises RuntimeError for everything."""
    text = str(error).lower()
    if "not found" in text and "rpc" not in text:
        return MISSING
    if (
        "out of memory" in text or "no space" in text
    ):  # also where its last try, of several, ran into the call's timeout
        return FULL
    if "timeout" in text or "timed out" in text or "deadline" in text:
        return TIMEOUT
    if any(word in text for word in ("unavailable", "not ready", "connect", "disconnect", "network", "shutdown")):
        return UNAVAILABLE
    return ERROR


class Failures:
    """Names what the DataSystem client raises. The first of each cause is a warning, with the client's own words."""

    def __init__(self) -> None:
        self._told: set[str] = {MISSING}  # objects are evicted every day

    def name(self, call: str, error: BaseException) -> str:
        """Return the cause behind an exception.

        Args:
            call: What was tried, for the log.
            error: What the client raised.
        """
        cause = classify(error)
        logger.log(logging.DEBUG if cause in self._told else logging.WARNING, "%s failed (%s): %s", call, cause, error)
        self._told.add(cause)
        return cause


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
    Blocks that are given away while somebody is still inside make the guard an abandoned one: what was read under it is
    worth nothing and must not be published.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._revoked = False
        self._abandoned = False

    @property
    def revoked(self) -> bool:
        """Whether permission was taken back."""
        return self._revoked

    @property
    def abandoned(self) -> bool:
        """Whether the blocks were given away while they were touched."""
        return self._abandoned

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

    def abandon(self) -> bool:
        """Give the blocks away whatever is done to them; False if nothing is done to them any more."""
        with self._condition:
            self._abandoned = self._inside > 0
            return self._abandoned


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

    def discard(self, keys: Sequence[str]) -> str | None:
        """Delete objects; returns None when none of them can be read any more, or the cause of the failure."""
        ...

    def fence(self) -> Callable[[], None] | None:
        """Mark the work queued on the device so far; the returned function waits, in any thread, until it is done.

        None when nothing can be marked: what the work writes must not be published.
        """
        ...

    def close(self) -> None:
        """Drop the connection."""
        ...


def delete(client: Any, keys: Sequence[str], max_keys: int) -> str | None:
    """Delete objects with a DataSystem client; returns the cause of a failure, which that nothing is there is not."""
    for start in range(0, len(keys), max_keys):
        try:
            left = client.delete(list(keys[start : start + max_keys]))
        except Exception as error:
            cause = classify(error)
            if cause != MISSING:
                return cause
        else:
            if left:
                return ERROR
    return None


def batches(count: int, item_bytes: int, batch_bytes: int, max_items: int) -> list[slice]:
    """Cut ``count`` items into slices of at most ``batch_bytes`` and ``max_items``, each of one item or more."""
    size = max(1, min(max_items, batch_bytes // max(1, item_bytes)))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
