# SPDX-License-Identifier: Apache-2.0
"""Host memory <-> DataSystem over ``KVClient``.

An object is a 64-byte header and the block's runs one after the other. The header lets the reader prove, before the
bytes count as loaded, that the object is this block, of this inner form, whole and unchanged. Writes go straight into
the DataSystem's shared memory (``mcreate``), reads come straight out of it (``get_buffers``): one copy each way.
Clients older than 0.7 have neither, so ``set`` and ``get`` are the fall-back.

The DataSystem client keeps Python's interpreter lock during its calls, so calls are cut into batches and bounded by the
client's own request timeout; no thread could interrupt them.
"""

from __future__ import annotations

import ctypes
import logging
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from ..config import ConnectorConfig
from ..layout import KVLayout
from .base import CORRUPT, LAYOUT, MISSING, REVOKED, Guard, Presence, Transfer, batches, classify

logger = logging.getLogger("vllm.yuanrong")

HEADER = struct.Struct("<4sHBx16sQQ16s8x")  # magic, version, checksum kind, layout, bytes, checksum, block digest
MAGIC = b"YRKV"
VERSION = 1
CHECKSUM_KINDS = {"none": 0, "crc32": 1, "sum64": 2}
MAX_EXIST_KEYS = 8000
MAX_BATCH_KEYS = 1000
_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15


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
        self._zero_copy_write = hasattr(client, "mcreate") and hasattr(client, "mset_buffer")
        self._zero_copy_read = hasattr(client, "get_buffers")
        self._views: list[tuple[memoryview, int, int]] = []
        if layout is not None:
            self._views = [
                (_memory(s.base, s.stride * (layout.num_blocks - 1) + s.size), s.stride, s.size)
                for s in layout.segments
            ]
            self._block_bytes = layout.block_bytes
            self._object_bytes = HEADER.size + layout.block_bytes

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
            cause = classify(error)
            return Presence([False] * len(keys), None if cause == MISSING else cause)
        return Presence(found[: len(keys)] + [False] * (len(keys) - len(found)))

    def put(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Copy blocks out under the guard, then publish them; a revoked batch is published up to where it was."""
        causes: list[str | None] = []
        moved = 0
        for part in batches(len(keys), self._object_bytes, self._config.batch_bytes, MAX_BATCH_KEYS):
            try:
                done = self._put_batch(list(keys[part]), blocks[part], guard)
            except Exception as error:
                logger.debug("put failed: %s", error)
                causes += [classify(error)] * (part.stop - part.start)
                break
            causes += [None] * done + [REVOKED] * (part.stop - part.start - done)
            moved += done * self._block_bytes
        last = next((cause for cause in reversed(causes) if cause), REVOKED)
        return Transfer(causes + [last] * (len(keys) - len(causes)), moved)

    def get(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Check each object and copy it into its block under the guard; stops at the first batch with a failure."""
        causes: list[str | None] = []
        moved = 0
        for part in batches(len(keys), self._object_bytes, self._config.batch_bytes, MAX_BATCH_KEYS):
            wanted = list(keys[part])
            try:
                values = self._read(wanted)
            except Exception as error:
                causes += [classify(error)] * len(wanted)
                break
            for key, value, block in zip(wanted, values, blocks[part], strict=True):
                cause = MISSING if value is None else self._copy_in(key, memoryview(value), block, guard)
                causes.append(cause)
                moved += 0 if cause else self._block_bytes
            self._drop_corrupt(wanted, causes[part.start :])
            if any(causes[part.start :]):
                break
        last = next((cause for cause in reversed(causes) if cause), MISSING)
        return Transfer(causes + [last] * (len(keys) - len(causes)), moved)

    def fence(self) -> Callable[[], None]:
        """Return at once: work on host memory is finished when the call that did it returns."""
        return _nothing

    def close(self) -> None:
        """Drop the client; its destructor disconnects."""
        self._client = None

    def _put_batch(self, keys: list[str], blocks: Sequence[int], guard: Guard) -> int:
        """Publish a batch; returns how many of its first keys were, which is all unless the guard was revoked."""
        if self._zero_copy_write:
            sizes = [self._object_bytes] * len(keys)
            buffers = list(self._client.mcreate(keys, sizes, self._write_mode, self._config.ttl_seconds))
            filled = 0
            for key, buffer, block in zip(keys, buffers, blocks, strict=True):
                if not self._copy_out(key, memoryview(buffer.MutableData()), block, guard):
                    break
                filled += 1
            if filled:
                self._client.mset_buffer(buffers[:filled])
            return filled
        for index, (key, block) in enumerate(zip(keys, blocks, strict=True)):
            value = bytearray(self._object_bytes)
            if not self._copy_out(key, memoryview(value), block, guard):
                return index
            self._client.set(key, value, self._write_mode, self._config.ttl_seconds)
        return len(keys)

    def _read(self, keys: list[str]) -> list[Any]:
        values = list(self._client.get_buffers(keys, 0) if self._zero_copy_read else self._client.get(keys))
        return values + [None] * (len(keys) - len(values))

    def _copy_out(self, key: str, target: memoryview, block: int, guard: Guard) -> bool:
        assert self._layout is not None  # noqa: S101 - only the worker side, which has a layout, moves blocks
        if not guard.enter():
            return False
        try:
            position = HEADER.size
            for view, stride, size in self._views:
                target[position : position + size] = view[block * stride : block * stride + size]
                position += size
        finally:
            guard.leave()
        # The checksum is of the copy, so it can be taken after the blocks were given back.
        kind = CHECKSUM_KINDS[self._config.checksum]
        check = checksum(kind, self._runs(target))
        HEADER.pack_into(
            target, 0, MAGIC, VERSION, kind, self._layout.fingerprint, self._block_bytes, check, _digest(key)
        )
        return True

    def _copy_in(self, key: str, source: memoryview, block: int, guard: Guard) -> str | None:
        assert self._layout is not None  # noqa: S101 - see _copy_out
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
        if checksum(kind, self._runs(source)) != check:
            return CORRUPT
        if not guard.enter():
            return REVOKED
        try:
            position = HEADER.size
            for view, stride, run in self._views:
                view[block * stride : block * stride + run] = source[position : position + run]
                position += run
        finally:
            guard.leave()
        return None

    def _runs(self, whole: memoryview) -> list[memoryview]:
        position, runs = HEADER.size, []
        for _, _, size in self._views:
            runs.append(whole[position : position + size])
            position += size
        return runs

    def _drop_corrupt(self, keys: list[str], causes: Sequence[str | None]) -> None:
        """Delete broken objects, so that the recomputed block is written again instead of failing for ever."""
        broken = [key for key, cause in zip(keys, causes, strict=False) if cause == CORRUPT]
        if not broken:
            return
        try:
            self._client.delete(broken)
        except Exception as error:
            logger.debug("could not delete %d corrupt objects: %s", len(broken), error)


def checksum(kind: int, runs: Sequence[memoryview]) -> int:
    """Return a 64-bit checksum over runs of bytes.

    ``sum64`` adds 64-bit words and weighs each run by its position. It is several times cheaper than a CRC (it runs at
    memory speed), and it finds what happens to objects: truncation, zeroed pages, mixed-up blocks, flipped bits.
    """
    if kind == CHECKSUM_KINDS["crc32"]:
        value = 0
        for run in runs:
            value = zlib.crc32(run, value)
        return value
    if kind == CHECKSUM_KINDS["sum64"]:
        value = 0
        for run in runs:
            whole = len(run) - len(run) % 8
            total = _sum_words(run[:whole]) + int.from_bytes(run[whole:], "little")
            value = ((value + total) * _ODD + 1) & _MASK
        return value
    return 0


def _sum_words(run: memoryview) -> int:
    if _numpy is None or not len(run):
        return sum(struct.unpack(f"<{len(run) // 8}Q", run))
    return int(_numpy.frombuffer(run, dtype="<u8").sum(dtype="<u8"))


def _load_numpy() -> Any:
    try:
        import numpy
    except ImportError:  # pragma: no cover - vLLM brings numpy; only a bare unit-test environment may lack it
        return None
    return numpy


_numpy = _load_numpy()


def _memory(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


def _digest(key: str) -> bytes:
    """Return 16 bytes of the block digest that ends a key, so that an object under a wrong key is found."""
    try:
        return bytes.fromhex(key[-64:])[:16]
    except ValueError:
        return key[-16:].encode().ljust(16, b"\0")


def _nothing() -> None:
    return None
