"""Device memory: how much there is and how much is used. Pools, of sleep mode, are not emulated."""

from __future__ import annotations

from typing import Any

from .._library import library
from .._refusal import refuse

NPUPluggableAllocator = refuse("torch.npu.memory.NPUPluggableAllocator")
MemPool = refuse("torch.npu.memory.MemPool")
use_mem_pool = refuse("torch.npu.memory.use_mem_pool")


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Return free and total bytes."""
    total = library.emulated_npu_total()
    return total - library.emulated_npu_allocated(), total


def memory_stats(device: Any = None) -> dict[str, int]:
    """Return the two figures that vllm-ascend reads."""
    return {
        "allocated_bytes.all.current": library.emulated_npu_allocated(),
        "allocated_bytes.all.peak": library.emulated_npu_peak(),
    }


def memory_allocated(device: Any = None) -> int:
    """Return the bytes in use."""
    return int(library.emulated_npu_allocated())


def memory_reserved(device: Any = None) -> int:
    """Return the bytes in use; nothing is kept back."""
    return int(library.emulated_npu_allocated())


def max_memory_allocated(device: Any = None) -> int:
    """Return the most bytes that were in use at a time."""
    return int(library.emulated_npu_peak())


def reset_peak_memory_stats(device: Any = None) -> None:
    """Begin a new measurement of the peak."""
    library.emulated_npu_reset_peak()


def empty_cache() -> None:
    """Give unused memory back; none is kept."""
