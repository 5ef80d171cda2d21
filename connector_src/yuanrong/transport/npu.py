# SPDX-License-Identifier: Apache-2.0
"""NPU memory <-> DataSystem over ``HeteroClient``: one object per block, its runs as a ``DeviceBlobList``.

The DataSystem stores the list's sizes with the object, so a reader of another inner form fails instead of reading wrong
bytes; there is no header, and an object that somebody cut off behind its sizes is read as whole. Calls are the
asynchronous ones, polled, so that other threads run while data moves. A call that has been submitted cannot be taken
back, so the guard is held from before submission until the call's end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..config import ConnectorConfig
from ..layout import KVLayout
from .base import ERROR, MISSING, REVOKED, TIMEOUT, Failures, Guard, Presence, Transfer, batches, delete
from .room import Room

logger = logging.getLogger("vllm.yuanrong")

MAX_KEYS = 8000
_POLL_SECONDS = 0.0005


class NpuTransport:
    """Transport for KV caches in NPU memory.

    Args:
        client: An initialised ``yr.datasystem.hetero_client.HeteroClient``.
        config: Settings.
        layout: Where blocks are; None on the scheduler side, which only asks ``exist``.
        types: ``Blob``, ``DeviceBlobList`` and a ``SetParam`` that makes writes evictable.
        device: ``torch.npu``, or what stands in for it; None on the scheduler side.
    """

    def __init__(
        self, client: Any, config: ConnectorConfig, layout: KVLayout | None, types: tuple[Any, Any, Any], device: Any
    ) -> None:
        self._client = client
        self._config = config
        self._layout = layout
        self._blob, self._blob_list, self._set_param = types
        self._device = device
        self._failures = Failures()
        self._block_bytes = 0 if layout is None else layout.block_bytes
        self._room = Room(config.batch_bytes, config.probe_interval_ms / 1000, config.request_timeout_ms / 2000)

    def exist(self, keys: Sequence[str]) -> Presence:
        """Tell which keys can be read; stops asking at the first batch with a miss."""
        found: list[bool] = []
        try:
            for start in range(0, len(keys), MAX_KEYS):
                found += [bool(flag) for flag in self._client.exist(list(keys[start : start + MAX_KEYS]))]
                if not all(found[start:]):
                    break
        except Exception as error:
            cause = self._failures.name("exist", error)
            return Presence([False] * len(keys), None if cause == MISSING else cause)
        asked = len(found) if len(found) < len(keys) else None
        return Presence(found[: len(keys)] + [False] * (len(keys) - len(found)), asked=asked)

    def put(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Publish blocks; a batch goes through as a whole or fails as a whole, as the DataSystem reports it."""
        client = self._client  # kept until the call has ended, also when the breaker connects anew meanwhile
        move = self._mover(
            keys, blocks, guard, lambda names, blobs: client.async_mset_d2h(names, blobs, self._set_param)
        )
        return self._moved(keys, self._room.put(len(keys), self._block_bytes, MAX_KEYS, move))

    def get(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Fill blocks; stops at the first batch with a failure."""
        client = self._client  # see put
        move = self._mover(keys, blocks, guard, lambda names, blobs: client.async_mget_h2d(names, blobs, 0))
        causes: list[str | None] = []
        for part in batches(len(keys), self._block_bytes, self._config.batch_bytes, MAX_KEYS):
            done = move(part)
            causes += done
            if any(done):
                break
        return self._moved(keys, causes)

    def discard(self, keys: Sequence[str]) -> str | None:
        """Delete objects."""
        return delete(self._client, keys, MAX_KEYS)

    def fence(self) -> Callable[[], None]:
        """Record an event on the current stream: nothing else orders a copy after the kernels that wrote the blocks."""
        assert self._layout is not None  # noqa: S101 - see _move
        device, index = self._device, self._layout.device_index
        event = device.Event()
        event.record(device.current_stream())

        def wait() -> None:
            device.set_device(index)
            event.synchronize()

        return wait

    def close(self) -> None:
        """Drop the client; its destructor disconnects."""
        self._client = None

    def _mover(
        self,
        keys: Sequence[str],
        blocks: Sequence[int],
        guard: Guard,
        submit: Callable[[list[str], list[Any]], Any],
    ) -> Callable[[slice], list[str | None]]:
        """Return what moves a batch under the guard, and tells of each of its blocks what became of it."""
        assert self._layout is not None  # noqa: S101 - only the worker side, which has a layout, moves blocks
        if self._device is not None:
            self._device.set_device(self._layout.device_index)  # a thread starts on device 0

        def move(part: slice) -> list[str | None]:
            names = list(keys[part])
            if not guard.enter():
                return [REVOKED] * len(names)
            try:
                failed = self._finish(submit(names, [self._blobs(block) for block in blocks[part]]))
                return [MISSING if name in failed else None for name in names]
            except Exception as error:
                return [self._failures.name("transfer", error)] * len(names)
            finally:
                guard.leave()

        return move

    def _moved(self, keys: Sequence[str], causes: list[str | None]) -> Transfer:
        last = next((cause for cause in reversed(causes) if cause), ERROR)
        moved = self._block_bytes * causes.count(None)
        return Transfer(causes + [last] * (len(keys) - len(causes)), moved)

    def _blobs(self, block: int) -> Any:
        assert self._layout is not None  # noqa: S101 - see _move
        runs = [self._blob(address, size) for address, size in self._layout.ranges(block)]
        return self._blob_list(self._layout.device_index, runs)

    def _finish(self, future: Any) -> set[str]:
        """Wait for a submitted call and return the keys that it reports as failed.

        The client raises RuntimeError for "not ready yet" and for failures alike, told apart by the message, and may be
        asked again. ``request_timeout_ms`` ends the call's request, and nothing ends its copies; giving up before
        them would let the device be written later, so this waits for the call's end, however late.
        """
        started = time.monotonic()
        warned = False
        while True:
            try:
                return set(future.get(1) or ())
            except RuntimeError as error:
                if "future get timeout" not in str(error).lower():
                    raise
            waited = time.monotonic() - started
            if not warned and waited > 2 * self._config.request_timeout_ms / 1000:
                warned = True
                logger.warning("a DataSystem transfer is past its timeout (%s after %.1f s)", TIMEOUT, waited)
            time.sleep(_POLL_SECONDS)
