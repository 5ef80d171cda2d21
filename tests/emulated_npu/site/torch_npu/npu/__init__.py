"""``torch.npu``: devices, streams, memory, random numbers."""

from __future__ import annotations

from typing import Any

import torch

from .._library import library
from .._refusal import NotEmulatedError, refuse
from . import memory, streams
from .memory import (
    empty_cache,
    max_memory_allocated,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    reset_peak_memory_stats,
)
from .streams import Event, Stream, current_stream, stream

default_stream = current_stream
NPUGraph = refuse("torch.npu.NPUGraph")
graph = refuse("torch.npu.graph")

SOC_VERSION = 223  # an A2 (910B), as in release.toml


def _lazy_init() -> None:
    return None


def _is_in_bad_fork() -> bool:
    return False


def is_initialized() -> bool:
    """Tell that the device can be used."""
    return True


def is_available() -> bool:
    """Tell that there is a device."""
    return True


def device_count() -> int:
    """Return the number of devices (``EMULATED_NPU_DEVICES``)."""
    return int(library.emulated_npu_device_count())


def current_device() -> int:
    """Return the calling thread's device."""
    return int(library.emulated_npu_current_device())


def _index(target: Any) -> int:
    if isinstance(target, int):
        return target
    found = torch.device(target).index
    return current_device() if found is None else found


def set_device(target: Any) -> None:
    """Choose the calling thread's device.

    Raises:
        RuntimeError: There is no such device.
    """
    if library.emulated_npu_set_device(_index(target)):
        raise RuntimeError(f"invalid NPU {target}; there are {device_count()}")


class device:
    """Context in which another device is the calling thread's."""

    def __init__(self, target: Any) -> None:
        self._target = _index(target)

    def __enter__(self) -> None:
        self._before = current_device()
        set_device(self._target)

    def __exit__(self, *_: object) -> None:
        set_device(self._before)


def get_device_name(target: Any = None) -> str:
    """Return the name that an A2 has."""
    return "Ascend910B1"


def get_soc_version() -> int:
    """Return the number that an A2 has."""
    return SOC_VERSION


def set_compile_mode(**_: Any) -> None:
    """Choose between compiled and built-in kernels, of which there are none here."""


def set_stream(chosen: Stream) -> None:
    """Choose the stream; there is one queue."""


def synchronize(target: Any = None) -> None:
    """Wait for everything that was queued: from now on the calling thread sees its results."""
    library.emulated_npu_wait(library.emulated_npu_issued())


def manual_seed(seed: int) -> None:
    """Seed the device's random numbers, which are the CPU's."""
    torch.default_generator.manual_seed(seed)


manual_seed_all = manual_seed


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Return the types that autocast may choose."""
    return [torch.float16, torch.bfloat16]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotEmulatedError(f"torch.npu.{name} is not emulated")
