"""The device's library, and its calls that are not operators."""

from __future__ import annotations

import ctypes
import os

import torch

PATH = os.environ.get("EMULATED_NPU_LIBRARY", "")
if not PATH:
    raise ImportError("EMULATED_NPU_LIBRARY names no library; tests/emulated_npu/device builds it")

torch.utils.rename_privateuse1_backend("npu")
torch.ops.load_library(PATH)

library = ctypes.CDLL(PATH)
for name, result, arguments in (
    ("device_count", ctypes.c_int, []),
    ("current_device", ctypes.c_int, []),
    ("set_device", ctypes.c_int, [ctypes.c_int]),
    ("total", ctypes.c_int64, []),
    ("allocated", ctypes.c_int64, []),
    ("peak", ctypes.c_int64, []),
    ("reset_peak", None, []),
    ("issued", ctypes.c_uint64, []),
    ("wait", None, [ctypes.c_uint64]),
    ("waited", ctypes.c_uint64, []),
    ("queue_write", None, [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64]),
    ("read", ctypes.c_int64, [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]),
):
    function = getattr(library, f"emulated_npu_{name}")
    function.restype, function.argtypes = result, arguments


def queue_write(cache: torch.Tensor, slots: torch.Tensor) -> None:
    """Announce that a queued kernel writes rows of a cache, so that only who waits for it sees them.

    Args:
        cache: Contiguous; the first two dimensions are block and place in the block.
        slots: The rows, ``block * block_size + place``; on any device.
    """
    rows = peek(slots).to(torch.int64).contiguous()
    size = cache.element_size() * (cache.numel() // (cache.shape[0] * cache.shape[1]))
    library.emulated_npu_queue_write(cache.data_ptr(), size, rows.data_ptr(), rows.numel())


def peek(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on the host, without waiting for the device; a tensor of the host is returned as it is."""
    if tensor.device.type == "cpu":
        return tensor
    source = tensor.contiguous()
    copy = torch.empty(source.shape, dtype=source.dtype)
    ctypes.memmove(copy.data_ptr(), source.data_ptr(), source.numel() * source.element_size())
    return copy
