# SPDX-License-Identifier: Apache-2.0
"""Host memory <-> DataSystem over ``KVClient``.

An object is a 64-byte header and the block's runs one after the other. The header lets the reader prove, before the
bytes count as loaded, that the object is this block, of this inner form, whole and unchanged. Writes go straight into
the DataSystem's shared memory (``mcreate``), reads come straight out of it (``get_buffers``): one copy each way, shared
among threads (numpy copies and sums without the interpreter lock), because one core does not fill a memory bus.

The DataSystem client keeps Python's interpreter lock during its calls, so calls are cut into batches and bounded by the
client's own request timeout; no thread could interrupt them.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..config import ConnectorConfig
from ..layout import KVLayout
from .base import CORRUPT, LAYOUT, MISSING, REVOKED, Failures, Guard, Presence, Transfer, batches, delete
from .copying import CRC32, NONE, SUM64, BlockCopier
from .room import Room
from .threads import CopyThreads

logger = logging.getLogger("vllm.yuanrong")

HEADER = struct.Struct("<4sHBx16sQQ16s8x")  # magic, version, checksum kind, layout, bytes, checksum, block digest
_PREFIX, _SUFFIX = struct.Struct("<4sHBx16sQ"), struct.Struct("<Q16s8x")  # its two halves
MAGIC = b"YRKV"
VERSION = 1
CHECKSUM_KINDS = {"none": NONE, "crc32": CRC32, "sum64": SUM64}
MAX_EXIST_KEYS = 8000
MAX_BATCH_KEYS = 1000
#: Bytes that are copied (in well under a millisecond) before it is asked again whether the blocks were taken back.
GUARD_BYTES = 1 << 20
CALL_SECONDS = 0.02
FIRST_READ_BYTES = 16 << 20


class Pace:
    """How much one reading call asks for, so that it holds the interpreter lock for about ``CALL_SECONDS``.

    Objects in the shared memory of the worker on this host take no time to get, those of another worker have to travel:
    a call that was quick lets the next one ask for twice as much, a slow one for half.

    Args:
        limit: Most bytes of a call.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = self._floor = min(limit, FIRST_READ_BYTES)

    def count(self, item_bytes: int) -> int:
        """Return how many items of a size to ask for, 1 or more."""
        return max(1, min(MAX_BATCH_KEYS, self._bytes // item_bytes))

    def took(self, size: int, seconds: float) -> None:
        """Learn from a call that asked for ``size`` bytes."""
        if seconds > 2 * CALL_SECONDS:
            self._bytes = max(self._floor, self._bytes // 2)
        elif seconds < CALL_SECONDS and 2 * size > self._bytes:
            self._bytes = min(self._limit, self._bytes * 2)


class HostTransport:
    """Transport for KV caches in host memory.

    Args:
        client: An initialised ``yr.datasystem.kv_client.KVClient``.
        config: Settings.
        layout: Where blocks are; None on the scheduler side, which only asks ``exist``.
        write_mode: The client library's evictable write mode.
    """

    def __init__(self, client: Any, config: ConnectorConfig, layout: KVLayout | None, write_mode: Any) -> None:
        self._client = client
        self._config = config
        self._layout = layout
        self._write_mode = write_mode
        self._pace = Pace(config.batch_bytes)
        self._room = Room(config.batch_bytes, config.probe_interval_ms / 1000, config.request_timeout_ms / 2000)
        self._failures = Failures()
        self._copier: BlockCopier | None = None
        if layout is not None:
            self._copier = BlockCopier(layout, CHECKSUM_KINDS[config.checksum], HEADER.size)
            self._block_bytes = layout.block_bytes
            self._object_bytes = HEADER.size + layout.block_bytes
            self._prefix = _PREFIX.pack(MAGIC, VERSION, self._copier.kind, layout.fingerprint, layout.block_bytes)
        self._threads = CopyThreads(config.copy_threads)

    def exist(self, keys: Sequence[str]) -> Presence:
        """Tell which keys can be read; stops asking at the first batch with a miss."""
        found: list[bool] = []
        try:
            for start in range(0, len(keys), MAX_EXIST_KEYS):
                part = list(keys[start : start + MAX_EXIST_KEYS])
                found += [bool(flag) for flag in self._client.exist(part)]
                if not all(found[start:]):
                    break
        except Exception as error:
            cause = self._failures.name("exist", error)
            return Presence([False] * len(keys), None if cause == MISSING else cause)
        asked = len(found) if len(found) < len(keys) else None
        return Presence(found[: len(keys)] + [False] * (len(keys) - len(found)), asked=asked)

    def put(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Copy blocks out under the guard, then publish them; a revoked batch is published up to where it was."""

        def put_part(part: slice) -> list[str | None]:
            if guard.revoked:
                return [REVOKED]
            count = part.stop - part.start
            try:
                done = self._put_batch(list(keys[part]), blocks[part], guard)
            except Exception as error:
                return [self._failures.name("put", error)]
            return [None] * count if done == count else [None] * done + [REVOKED]

        causes = self._room.put(len(keys), self._object_bytes, MAX_BATCH_KEYS, put_part)
        last = next((cause for cause in reversed(causes) if cause), None)
        moved = causes.count(None) * self._block_bytes
        return Transfer(causes + [last] * (len(keys) - len(causes)), moved)

    def get(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Check each object and copy it into its block under the guard; stops at the first batch with a failure."""
        causes: list[str | None] = []
        moved = 0
        while len(causes) < len(keys):
            count = self._pace.count(self._object_bytes)
            part = slice(len(causes), min(len(causes) + count, len(keys)))
            wanted = list(keys[part])
            try:
                values = self._read(wanted)
            except Exception as error:
                causes.append(self._failures.name("get", error))
                break
            done = self._copy_in(wanted, values, blocks[part], guard)
            causes += done
            moved += done.count(None) * self._block_bytes
            self._drop_corrupt(wanted, causes[part.start :])
            if any(causes[part.start :]):
                break
        last = next((cause for cause in reversed(causes) if cause), MISSING)
        return Transfer(causes + [last] * (len(keys) - len(causes)), moved)

    def fence(self) -> Callable[[], None]:
        """Return at once: work on host memory is finished when the call that did it returns."""
        return _nothing

    def discard(self, keys: Sequence[str]) -> str | None:
        """Delete objects."""
        return delete(self._client, keys, MAX_EXIST_KEYS)

    def close(self) -> None:
        """Drop the client; its destructor disconnects."""
        self._client = None

    def _put_batch(self, keys: list[str], blocks: Sequence[int], guard: Guard) -> int:
        """Publish a batch; returns how many of its first keys were, which is all unless the guard was revoked."""
        sizes = [self._object_bytes] * len(keys)
        buffers = list(self._client.mcreate(keys, sizes, self._write_mode, self._config.ttl_seconds))
        filled = self._copy_out(keys, [buffer.MutableData() for buffer in buffers], blocks, guard)
        if filled:
            self._client.mset_buffer(buffers[:filled])
        return filled

    def _read(self, keys: list[str]) -> list[Any]:
        begin = time.perf_counter()
        values = list(self._client.get_buffers(keys, 0))
        self._pace.took(len(keys) * self._object_bytes, time.perf_counter() - begin)
        return values + [None] * (len(keys) - len(values))

    def _sections(self, count: int) -> list[slice]:
        return batches(count, self._block_bytes, GUARD_BYTES, count)

    def _copy_out(self, keys: Sequence[str], values: Sequence[Any], blocks: Sequence[int], guard: Guard) -> int:
        """Fill objects; returns how many of the first ones are, which is all unless the guard was revoked."""
        filled = 0
        shares = self._threads.share(
            len(keys),
            self._block_bytes,
            lambda share: self._copy_share_out(keys[share], values[share], blocks[share], guard),
        )
        for share, done in shares:
            filled += done
            if done < share.stop - share.start:
                break
        return filled

    def _copy_share_out(self, keys: Sequence[str], values: Sequence[Any], blocks: Sequence[int], guard: Guard) -> int:
        assert self._copier is not None  # noqa: S101 - only the worker side, which has a layout, moves blocks
        for part in self._sections(len(keys)):
            start: int = part.start
            targets = [memoryview(value) for value in values[part]]
            if not guard.enter():
                return start
            try:
                checks = self._copier.copy_out(targets, blocks[part])
            finally:
                guard.leave()
            if guard.abandoned:
                return start
            for key, target, check in zip(keys[part], targets, checks, strict=True):
                target[: HEADER.size] = self._prefix + _SUFFIX.pack(check, _digest(key))
        return len(keys)

    def _copy_in(
        self, keys: Sequence[str], values: Sequence[Any], blocks: Sequence[int], guard: Guard
    ) -> list[str | None]:
        """Fill blocks; returns the cause of each failure.

        The checksum is taken after the copy, while the bytes are in the processor's cache. A block that got a damaged
        object's bytes is cleared: an attention kernel may multiply what it masks by zero, and zero times NaN is NaN.
        """
        shares = self._threads.share(
            len(keys),
            self._block_bytes,
            lambda share: self._copy_share_in(keys[share], values[share], blocks[share], guard),
        )
        return [cause for _, causes in shares for cause in causes]

    def _copy_share_in(
        self, keys: Sequence[str], values: Sequence[Any], blocks: Sequence[int], guard: Guard
    ) -> list[str | None]:
        assert self._copier is not None  # noqa: S101 - see _copy_share_out
        causes: list[str | None] = []
        for part in self._sections(len(keys)):
            done: list[str | None] = []
            opened: list[tuple[int, Any, int, int]] = []
            for index, key in enumerate(keys[part]):
                found = self._open(key, values[part.start + index])
                done.append(found if isinstance(found, str) else None)
                if not isinstance(found, str):
                    opened.append((index, *found))
            if opened:
                if not guard.enter():
                    causes += [cause or REVOKED for cause in done]
                    return causes + [REVOKED] * (len(keys) - len(causes))
                try:
                    checks = self._copier.copy_in(
                        [source for _, source, _, _ in opened],
                        [blocks[part.start + index] for index, _, _, _ in opened],
                        [kind for _, _, kind, _ in opened],
                    )
                    for (index, _, _, expected), check in zip(opened, checks, strict=True):
                        if check != expected:
                            done[index] = CORRUPT
                            self._copier.clear(blocks[part.start + index])
                finally:
                    guard.leave()
            causes += done
        return causes

    def _open(self, key: str, value: Any) -> tuple[memoryview, int, int] | str:
        """Read an object's header: the object, the kind of its checksum and the checksum, or why it is not usable."""
        assert self._layout is not None  # noqa: S101 - see _copy_share_out
        if value is None:
            return MISSING
        source = memoryview(value)
        if len(source) < HEADER.size:
            return CORRUPT
        magic, version, kind, fingerprint, size, check, digest = HEADER.unpack_from(source)
        if magic != MAGIC or version != VERSION or digest != _digest(key) or kind not in CHECKSUM_KINDS.values():
            return CORRUPT
        if fingerprint != self._layout.fingerprint:
            return LAYOUT
        # The DataSystem may round a buffer up, so only a shorter one is a truncated one.
        if size != self._block_bytes or len(source) < self._object_bytes:
            return CORRUPT
        return source, kind, check

    def _drop_corrupt(self, keys: list[str], causes: Sequence[str | None]) -> None:
        """Delete broken objects, so that the recomputed block is written again instead of failing for ever."""
        broken = [key for key, cause in zip(keys, causes, strict=False) if cause == CORRUPT]
        if not broken:
            return
        try:
            self._client.delete(broken)
        except Exception as error:
            logger.debug("could not delete %d corrupt objects: %s", len(broken), error)


def _digest(key: str) -> bytes:
    """Return 16 bytes of the block digest that ends a key, so that an object under a wrong key is found."""
    return bytes.fromhex(key[-64:])[:16]


def _nothing() -> None:
    return None
