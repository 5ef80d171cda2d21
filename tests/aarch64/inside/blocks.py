"""Inside QEMU: blocks of device memory go out and come back through the connector's NPU transport.

Usage: ``python3.11 blocks.py WORKER``; prints one line of JSON. The log goes to stderr.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import math
import os
import pkgutil
import platform
import sys
from types import SimpleNamespace
from typing import Any

import torch_npu
import yuanrong
from yuanrong.config import ConnectorConfig
from yuanrong.layout import KVLayout
from yuanrong.transport import COPY_POLICIES, connect
from yuanrong.transport.base import Guard
from yuanrong.trial import try_out

#: Blocks, tokens, heads, and bytes of a head; a block is a page of this, K and V, in each of two layers.
SHAPE = (4, 16, 2, 64)
LAYERS = 2
TO_DEVICE, TO_HOST = 1, 2  # aclrtMemcpyKind


class Cache:
    """Device memory with what the connector asks of a tensor; one byte an element."""

    shape, dtype = SHAPE, "int8"
    device = SimpleNamespace(type="npu", index=0)

    def __init__(self) -> None:
        self._memory = ctypes.c_void_p()
        torch_npu.must(torch_npu.acl.aclrtMalloc(ctypes.byref(self._memory), ctypes.c_size_t(math.prod(SHAPE)), 0))

    def data_ptr(self) -> int:
        """Return its address."""
        return int(self._memory.value or 0)

    def stride(self) -> tuple[int, ...]:
        """Return its strides, in elements."""
        return tuple(math.prod(SHAPE[axis + 1 :]) for axis in range(len(SHAPE)))

    def element_size(self) -> int:
        """Return an element's bytes."""
        return 1


def main(address: str) -> dict[str, Any]:
    """Do all of it; what went wrong is in the answer."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    torch_npu.npu.set_device(0)
    caches = {f"layers.{layer}": (Cache(), Cache()) for layer in range(LAYERS)}
    layout = KVLayout.from_caches(caches)
    transport = connect(ConnectorConfig.from_extra({"worker_address": address}, "kv_both"), "npu", layout, 20_000)
    trial = try_out(transport, "npu", 60)
    stream, written = torch_npu.npu.current_stream(), list[Any]()
    for number, (start, size) in enumerate(layout.ranges(1)):
        content = ctypes.create_string_buffer(bytes([number + 1]) * size, size)
        written.append(content)  # until the stream is done with it
        torch_npu.must(
            torch_npu.acl.aclrtMemcpyAsync(
                ctypes.c_void_p(start), ctypes.c_size_t(size), content, ctypes.c_size_t(size), TO_DEVICE, stream
            )
        )
    fence = transport.fence()
    assert fence is not None
    fence()
    saved = transport.put(["block"], [1], Guard()).causes
    there = transport.exist(["block", "absent"]).found
    loaded = transport.get(["block", "absent"], [2, 3], Guard()).causes
    return {
        "machine": platform.machine(),
        "imported": imported(),
        "policies": [os.environ[name] for name in COPY_POLICIES],
        "trial": trial,
        "saved": saved,
        "there": there,
        "loaded": loaded,
        "bytes": [sorted(set(read(start, size))) for start, size in layout.ranges(2)],
    }


def read(start: int, size: int) -> bytes:
    """Return a piece of device memory."""
    target = ctypes.create_string_buffer(size)
    length = ctypes.c_size_t(size)
    torch_npu.must(torch_npu.acl.aclrtMemcpy(target, length, ctypes.c_void_p(start), length, TO_HOST))
    return target.raw


def imported() -> dict[str, str]:
    """Import every module of the connector; what each of them lacks, empty for nothing."""
    found = {}
    for module in pkgutil.walk_packages(yuanrong.__path__, "yuanrong."):
        try:
            importlib.import_module(module.name)
            found[module.name.removeprefix("yuanrong.")] = ""
        except ModuleNotFoundError as error:
            found[module.name.removeprefix("yuanrong.")] = str(error.name)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])), flush=True)
    os._exit(0)  # the client's library takes half a minute to end a process, on every machine
