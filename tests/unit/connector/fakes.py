# ruff: noqa: D101, D102 - stand-ins are named and shaped like what they stand in for
"""Stand-ins without torch, vLLM or a DataSystem: tensors over plain memory, and a transport over a dictionary."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from yuanrong.layout import KVLayout
from yuanrong.transport.base import MISSING, REVOKED, Guard, Presence, Transfer


class Device:
    """A device as torch names it."""

    def __init__(self, kind: str = "cpu", index: int | None = None) -> None:
        self.type = kind
        self.index = index


class FakeTensor:
    """A row-major tensor over memory of its own (or of another tensor, from an offset on)."""

    def __init__(
        self,
        shape: Sequence[int],
        itemsize: int = 2,
        *,
        strides: Sequence[int] | None = None,
        device: Device | None = None,
        memory: Any = None,
        dtype: str = "bf16",
    ) -> None:
        self.shape = tuple(shape)
        self._itemsize = itemsize
        natural: list[int] = []
        step = 1
        for size in reversed(shape):
            natural.insert(0, step)
            step *= size
        self._strides = list(strides or natural)
        extent = sum((n - 1) * s for n, s in zip(shape, self._strides, strict=True)) + 1
        self.memory = memory if memory is not None else (ctypes.c_ubyte * (extent * itemsize))()
        self.device = device or Device()
        self.dtype = dtype

    def data_ptr(self) -> int:
        return ctypes.addressof(self.memory)

    def stride(self) -> list[int]:
        return self._strides

    def element_size(self) -> int:
        return self._itemsize


def read_block(layout: KVLayout, block: int) -> bytes:
    return b"".join(ctypes.string_at(address, size) for address, size in layout.ranges(block))


def write_block(layout: KVLayout, block: int, data: bytes) -> None:
    position = 0
    for address, size in layout.ranges(block):
        ctypes.memmove(address, data[position : position + size], size)
        position += size


#: Called with the operation and the key; returns a cause to fail with, or None.
Fault = Callable[[str, str], "str | None"]


@dataclass
class MemoryTransport:
    """A DataSystem in a dictionary, with faults on demand.

    A ``get`` that fails with any other cause than "missing" leaves garbage in the block, as a torn copy would.
    """

    store: dict[str, bytes] = field(default_factory=dict)
    layout: KVLayout | None = None
    fault: Fault = lambda op, key: None
    calls: list[tuple[str, int]] = field(default_factory=list)
    fences: int = 0
    closed: bool = False

    def exist(self, keys: Sequence[str]) -> Presence:
        self.calls.append(("exist", len(keys)))
        cause = next((c for c in (self.fault("exist", key) for key in keys) if c), None)
        return Presence([False] * len(keys), cause) if cause else Presence([key in self.store for key in keys])

    def get(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        assert self.layout is not None
        self.calls.append(("get", len(keys)))
        causes: list[str | None] = []
        for key, block in zip(keys, blocks, strict=True):
            if not guard.enter():
                causes.append(REVOKED)
                continue
            cause = self.fault("get", key) or (None if key in self.store else MISSING)
            if cause is None:
                write_block(self.layout, block, self.store[key])
            elif cause != MISSING:
                write_block(self.layout, block, b"\xee" * self.layout.block_bytes)
            guard.leave()
            causes.append(cause)
        return Transfer(causes, self.layout.block_bytes * causes.count(None))

    def put(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        assert self.layout is not None
        self.calls.append(("put", len(keys)))
        causes: list[str | None] = []
        for key, block in zip(keys, blocks, strict=True):
            if not guard.enter():
                causes.append(REVOKED)
                continue
            data = read_block(self.layout, block)
            guard.leave()
            cause = self.fault("put", key)
            if cause is None:
                assert self.store.get(key, data) == data, "one key, two contents"
                self.store[key] = data
            causes.append(cause)
        return Transfer(causes, self.layout.block_bytes * causes.count(None))

    def discard(self, keys: Sequence[str]) -> str | None:
        self.calls.append(("discard", len(keys)))
        cause = next((c for c in (self.fault("discard", key) for key in keys) if c), None)
        if cause is None:
            for key in keys:
                self.store.pop(key, None)
        return cause

    def fence(self) -> Callable[[], None] | None:
        self.fences += 1
        return lambda: None

    def close(self) -> None:
        self.closed = True


@dataclass
class Status:
    name: str = "WAITING"


@dataclass
class Sampling:
    prompt_logprobs: int | None = None


@dataclass
class Lora:
    lora_name: str
    lora_path: str
    lora_int_id: int = 1


@dataclass
class Range:
    offset: int
    length: int


@dataclass(eq=False)
class FakeRequest:
    """What the scheduler side reads of vLLM's ``Request``."""

    request_id: str
    prompt_token_ids: list[int]
    output: list[int] = field(default_factory=list)
    status: Status = field(default_factory=Status)
    sampling_params: Any = field(default_factory=Sampling)
    pooling_params: Any = None
    mm_hashes: list[Any] = field(default_factory=list)
    mm_positions: list[Range] = field(default_factory=list)
    num_encoder_inputs: int = 0
    lora_request: Lora | None = None
    cache_salt: str | None = None
    done: bool = False
    num_computed_tokens: int = 0

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.output)

    @property
    def num_output_tokens(self) -> int:
        return len(self.output)

    @property
    def all_token_ids(self) -> list[int]:
        return self.prompt_token_ids + self.output

    def is_finished(self) -> bool:
        return self.done


@dataclass
class New:
    req_id: str
    block_ids: tuple[list[int], ...]
    num_computed_tokens: int = 0


@dataclass
class Cached:
    req_ids: list[str] = field(default_factory=list)
    resumed_from_preemption: list[bool] = field(default_factory=list)
    new_block_ids: list[tuple[list[int], ...]] = field(default_factory=list)
    num_computed_tokens: list[int] = field(default_factory=list)


@dataclass
class Output:
    """What the scheduler side reads of vLLM's ``SchedulerOutput``."""

    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    scheduled_new_reqs: list[New] = field(default_factory=list)
    scheduled_cached_reqs: Cached = field(default_factory=Cached)
    finished_req_ids: set[str] = field(default_factory=set)
