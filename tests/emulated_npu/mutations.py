"""Breaks of the connector. Each function breaks it and returns how to mend it.

The first four must show in answers, the others must not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

Mend = Callable[[], None]


def _patched(owner: Any, name: str, value: Any) -> Mend:
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def _npu() -> Any:
    from vllm_ascend.distributed.yuanrong.transport import npu

    return npu.NpuTransport


def _around(method: str, change: Callable[[Any], Any]) -> Mend:
    """Let one direction of the transport work on another layout."""
    owner = _npu()
    real = getattr(owner, method)

    def changed(self: Any, keys: Sequence[str], blocks: Sequence[int], guard: Any) -> Any:
        layout = self._layout
        self._layout = change(layout)
        try:
            return real(self, keys, blocks, guard)
        finally:
            self._layout = layout

    return _patched(owner, method, changed)


def no_fence() -> Mend:
    """Read device memory without waiting for the kernels that write it."""
    return _patched(_npu(), "fence", lambda self: lambda: None)


def swapped_k_and_v() -> Mend:
    """Load K where V belongs, and V where K belongs."""

    def swap(layout: Any) -> Any:
        pairs = zip(layout.segments[1::2], layout.segments[::2], strict=True)
        return dataclasses.replace(layout, segments=tuple(part for pair in pairs for part in pair))

    return _around("get", swap)


def shifted_block() -> Mend:
    """Load the first block one place further."""
    owner = _npu()
    real = owner.get

    def shifted(self: Any, keys: Sequence[str], blocks: Sequence[int], guard: Any) -> Any:
        return real(self, keys, [(blocks[0] + 1) % self._layout.num_blocks, *blocks[1:]], guard)

    return _patched(owner, "get", shifted)


def dropped_layer() -> Mend:
    """Neither save nor load the last layer."""

    def drop(layout: Any) -> Any:
        return dataclasses.replace(layout, segments=layout.segments[:-2])

    mends = [_around("put", drop), _around("get", drop)]

    def mend() -> None:
        for part in mends:
            part()

    return mend


def raising() -> Mend:
    """Raise what no transport raises, instead of loading. Answers must not change."""

    def surprise(self: Any, keys: Sequence[str], blocks: Sequence[int], guard: Any) -> Any:
        raise ArithmeticError("of no kind that anybody thought of")

    return _patched(_npu(), "get", surprise)


def evicted() -> Mend:
    """Delete what is about to be loaded: an eviction between lookup and load. Answers must not change."""
    owner = _npu()
    real = owner.get

    def emptied(self: Any, keys: Sequence[str], blocks: Sequence[int], guard: Any) -> Any:
        self._client.delete(list(keys))
        return real(self, keys, blocks, guard)

    return _patched(owner, "get", emptied)


def evicted_on_a_rank() -> Mend:
    """Delete what the second of two ranks is about to load, once the scheduler has seen it."""
    owner = _npu()
    real = owner.exist

    def seen(self: Any, keys: Sequence[str]) -> Any:
        answer = real(self, keys)
        self._client.delete([key for key in keys if "_1of2_" in key])
        return answer

    return _patched(owner, "exist", seen)


#: Breaks that must show in answers.
WRONG = (no_fence, swapped_k_and_v, shifted_block, dropped_layer)
BY_NAME: dict[str, Callable[[], Mend]] = {
    function.__name__: function for function in (*WRONG, raising, evicted, evicted_on_a_rank)
}
