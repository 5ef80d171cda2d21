"""Load and save throughput of the connector against the raw client: the same objects, the same KV memory.

Three arms move the same blocks in each round:

* ``raw``: ``KVClient`` alone, all objects in one call, each copied run by run between DataSystem memory and the KV
  cache. It checks nothing and writes no header.
* ``transport``: ``HostTransport``, with header, checksum and guard.
* ``worker``: the engine's view, from handing a step's plan over to seeing it ended: keys, threads, lookup before a
  save, breaker and all.
"""

from __future__ import annotations

import ctypes
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from vllm_ascend.distributed.yuanrong.config import ConnectorConfig
from vllm_ascend.distributed.yuanrong.keys import block_key
from vllm_ascend.distributed.yuanrong.layout import KVLayout
from vllm_ascend.distributed.yuanrong.metadata import LoadSpec, SaveSpec, StepPlan
from vllm_ascend.distributed.yuanrong.metrics import make_metrics
from vllm_ascend.distributed.yuanrong.transport import connect
from vllm_ascend.distributed.yuanrong.transport.base import Guard
from vllm_ascend.distributed.yuanrong.transport.breaker import BreakingTransport
from vllm_ascend.distributed.yuanrong.transport.host import HEADER, HostTransport
from vllm_ascend.distributed.yuanrong.worker import WorkerSide
from yr.datasystem.kv_client import KVClient
from yr.datasystem.object_client import WriteMode

from workshop.bench.figures_of_a_run import Figure, Goal
from workshop.bench.statistics import measure, paired_ratio
from yrpd.errors import VerificationError

AT_LEAST = Goal(0.9, at_least=True)
_NAMESPACE = hashlib.sha256(b"benchmark").digest()
_MODE = WriteMode.NONE_L2_CACHE_EVICT


@dataclass(frozen=True)
class Shape:
    """KV blocks of one size, as vLLM's CPU back end keeps them: per layer one tensor ``[2, blocks, run]``.

    Attributes:
        name: Bytes of a block, for people.
        layers: Layers.
        run_bytes: Bytes of one block's K (or V) in one layer.
        count: Blocks that one round moves.
    """

    name: str
    layers: int
    run_bytes: int
    count: int


#: 7 MiB is Qwen2.5-7B at block size 128. All rounds move more than a last-level cache holds.
SHAPES = (
    Shape("64 KiB", 4, 8 << 10, 960),
    Shape("512 KiB", 16, 16 << 10, 128),
    Shape("7 MiB", 28, 128 << 10, 16),
)


def figures(address: str, rounds: int) -> list[Figure]:
    """Measure all sizes; the checksum's part shows in the figures without it."""
    results: list[Figure] = []
    for shape in SHAPES:
        for checksum in ("sum64", "none"):
            bench = _Bench(address, shape, checksum)
            try:
                results += bench.figures(rounds)
            finally:
                bench.close()
    return results


class _Bench:
    def __init__(self, address: str, shape: Shape, checksum: str) -> None:
        self.shape, self.checksum = shape, checksum
        extra = {"worker_address": address, "checksum": checksum, "sync_save_timeout_ms": 60000, "poll_ms": 1000}
        self.config = ConnectorConfig.from_extra(extra, "kv_producer", {})
        elements = shape.run_bytes // 2
        torch.manual_seed(1)
        self.caches = {  # one after the other, as vLLM allocates them
            f"layers.{i}": torch.zeros(2, shape.count, elements, dtype=torch.bfloat16) for i in range(shape.layers)
        }
        for cache in self.caches.values():
            cache.normal_()
        self.layout = KVLayout.from_caches(self.caches)
        self.blocks = list(range(shape.count))
        host, port = address.rsplit(":", 1)
        self.client: Any = KVClient(host=host, port=int(port))
        self.client.init()
        self.transport = HostTransport(self.client, self.config, self.layout, _MODE)
        self.worker = WorkerSide(
            self.config, 0, 1, shared=False, metrics=make_metrics(True), agree=lambda states: states
        )
        timeout = self.config.request_timeout_ms
        breaker = BreakingTransport(lambda: connect(self.config, "host", self.layout, timeout), lambda: True, 60)
        breaker.start()
        self.worker.attach(self.layout, breaker)
        self.memory = [
            (_memory(s.base, s.stride * (shape.count - 1) + s.size), s.stride, s.size) for s in self.layout.segments
        ]

    def figures(self, rounds: int) -> list[Figure]:
        goal = AT_LEAST if self.checksum == "sum64" else None
        title = "" if self.checksum == "sum64" else ", no checksum"
        digests = self._digests("load")
        self._check(self.transport.put(self._keys(digests), self.blocks, Guard()).cause)
        self._prove_load(digests)
        keys = self._keys(digests)
        loads = measure(
            {"raw": self._timed(lambda _: self._raw_load(keys)),
             "transport": self._timed(lambda _: self._transport_load(keys)),
             "worker": self._timed(lambda n: self._worker_load(n, digests))}, rounds)  # fmt: skip
        self.client.delete(keys)
        saves = measure(
            {"raw": self._saving("raw", lambda _n, _d, keys: self._raw_save(keys)),
             "transport": self._saving("transport", lambda _n, _d, keys: self._transport_save(keys)),
             "worker": self._saving("worker", lambda n, d, _k: self._worker_save(n, d))}, rounds)  # fmt: skip
        results = []
        for what, taken in (("load", loads), ("save", saves)):
            for arm in ("transport", "worker"):
                ratio = paired_ratio(taken["raw"], taken[arm])  # throughput is the inverse of the time
                results.append(Figure(f"{what}, {arm} / raw client{title}", "size", self.shape.name, ratio, goal=goal))
        return results

    def close(self) -> None:
        self.worker.close()
        self.transport.close()
        self.client = None

    # -- arms ----------------------------------------------------------------------------------------------------------

    def _raw_load(self, keys: list[str]) -> None:
        for value, block in zip(self.client.get_buffers(keys, 0), self.blocks, strict=True):
            source, position = memoryview(value), HEADER.size
            for view, stride, size in self.memory:
                view[block * stride : block * stride + size] = source[position : position + size]
                position += size

    def _raw_save(self, keys: list[str]) -> None:
        sizes = [HEADER.size + self.layout.block_bytes] * len(keys)
        buffers = list(self.client.mcreate(keys, sizes, _MODE, 0))
        for buffer, block in zip(buffers, self.blocks, strict=True):
            target, position = memoryview(buffer.MutableData()), HEADER.size
            for view, stride, size in self.memory:
                target[position : position + size] = view[block * stride : block * stride + size]
                position += size
        self.client.mset_buffer(buffers)

    def _transport_load(self, keys: list[str]) -> None:
        self._check(self.transport.get(keys, self.blocks, Guard()).cause)

    def _transport_save(self, keys: list[str]) -> None:
        self._check(self.transport.put(keys, self.blocks, Guard()).cause)

    def _worker_load(self, number: int, digests: list[bytes]) -> None:
        request = f"load-{number}"
        self.worker.start(StepPlan(_NAMESPACE, loads=[LoadSpec(request, digests, self.blocks)]))
        ended: set[str] = set()
        while not ended:
            ended = self.worker.collect()[1]
        self._check(None if ended == {request} else str(ended))

    def _worker_save(self, number: int, digests: list[bytes]) -> None:
        request = f"save-{number}"
        spec = SaveSpec(request, digests, self.blocks, absent=True)  # as the scheduler says after a miss
        self.worker.save(StepPlan(_NAMESPACE, saves=[spec], sync_saves=[request]))  # returns when published

    # -- around them ---------------------------------------------------------------------------------------------------

    def _saving(self, name: str, save: Callable[[int, list[bytes], list[str]], None]) -> Callable[[int], float]:
        """Time a save under keys that nobody has used, see that all of it is there, then make room."""

        def arm(number: int) -> float:
            digests = self._digests(f"{name}-{number}")
            keys = self._keys(digests)
            seconds = self._timed(lambda n: save(n, digests, keys))(number)
            self._check(None if all(self.transport.exist(keys).found) else "a saved block is missing")
            self.client.delete(keys)
            return seconds

        return arm

    def _timed(self, work: Callable[[int], Any]) -> Callable[[int], float]:
        def arm(number: int) -> float:
            begin = time.perf_counter()
            work(number)
            return time.perf_counter() - begin

        return arm

    def _prove_load(self, digests: list[bytes]) -> None:
        """Show once that each arm brings back what was saved; a fast copy of the wrong bytes is worth nothing."""
        before = [cache.clone() for cache in self.caches.values()]
        keys = self._keys(digests)
        loads: list[Callable[[], None]] = [
            lambda: self._raw_load(keys),
            lambda: self._transport_load(keys),
            lambda: self._worker_load(-1, digests),
        ]
        for load in loads:
            for cache in self.caches.values():
                cache.fill_(0)
            load()
            same = all(torch.equal(a, b) for a, b in zip(before, self.caches.values(), strict=True))
            self._check(None if same else "other bytes came back")

    def _digests(self, name: str) -> list[bytes]:
        label = f"{self.shape.name} {self.checksum} {name}"
        return [hashlib.sha256(f"{label} {i}".encode()).digest() for i in self.blocks]

    def _keys(self, digests: list[bytes]) -> list[str]:
        return [block_key(_NAMESPACE, "0of1", digest) for digest in digests]

    def _check(self, cause: str | None) -> None:
        if cause is not None:
            raise VerificationError(f"The benchmark's blocks of {self.shape.name} were not moved: {cause}.")


def _memory(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")
