"""openYuanrong's HeteroClient for the emulated device: its arguments, real objects in the real DataSystem.

The copy engine sees device memory as the thread that submits does: a kernel whose end that thread has not waited for
has not written yet. Half of an object is read when the call is submitted and half when it ends, and loaded bytes arrive
when the call is asked for its end and not before: so a missing event, a block that is reused during its save, and a
load that is counted as done too early all give wrong bytes, every time.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from ._library import library

MODULE = "yr.datasystem.hetero_client"
_TABLE_ENTRY = 8


def _read(address: int, size: int) -> bytes:
    target = ctypes.create_string_buffer(size)
    library.emulated_npu_read(address, size, target)
    return target.raw


class _Future:
    """A call under way: not ready when first asked, as a copy takes its time."""

    def __init__(self, finish: Callable[[], list[str]]) -> None:
        self._finish, self._asked = finish, False

    def get(self, timeout_ms: int = 60000) -> list[str]:
        """Return the failed keys.

        Raises:
            RuntimeError: Not ready; or what the DataSystem said.
        """
        if not self._asked:
            self._asked = True
            raise RuntimeError("Future get timeout")
        return self._finish()


class EmulatedHeteroClient:
    """Takes what HeteroClient takes; the object holds the number and sizes of its parts, then the parts."""

    def __init__(self, **arguments: Any) -> None:
        from yr.datasystem.kv_client import KVClient

        self._client = KVClient(**arguments)

    def init(self) -> None:
        """Connect."""
        self._client.init()

    def exist(self, keys: list[str]) -> list[bool]:
        """Tell which objects there are."""
        return [bool(found) for found in self._client.exist(keys)]

    def delete(self, keys: list[str]) -> list[str]:
        """Delete objects; return the failed keys."""
        return list(self._client.delete(keys))

    def async_mset_d2h(self, keys: list[str], data_blob_list: list[Any], set_param: Any) -> _Future:
        """Copy device memory into objects."""
        lists = [self._parts(item) for item in data_blob_list]
        early = [[_read(address, size) for address, size in parts[: len(parts) // 2]] for parts in lists]

        def finish() -> list[str]:
            late = [[_read(address, size) for address, size in parts[len(parts) // 2 :]] for parts in lists]
            tables = [self._table([size for _, size in parts]) for parts in lists]
            objects = [table + b"".join(a + b) for table, a, b in zip(tables, early, late, strict=True)]
            buffers = self._client.mcreate(keys, [len(o) for o in objects], set_param.write_mode, set_param.ttl_second)
            for buffer, whole in zip(buffers, objects, strict=True):
                memoryview(buffer.MutableData())[: len(whole)] = whole
            self._client.mset_buffer(buffers)
            return []

        return _Future(finish)

    def async_mget_h2d(self, keys: list[str], data_blob_list: list[Any], sub_timeout_ms: int) -> _Future:
        """Copy objects into device memory."""
        lists = [self._parts(item) for item in data_blob_list]

        def finish() -> list[str]:
            failed = []
            for key, value, parts in zip(keys, self._client.get_buffers(keys, sub_timeout_ms), lists, strict=True):
                table = self._table([size for _, size in parts])
                whole = b"" if value is None else bytes(memoryview(value))
                if not whole.startswith(table) or len(whole) < len(table) + sum(size for _, size in parts):
                    failed.append(key)
                    continue
                position = len(table)
                for address, size in parts:
                    ctypes.memmove(address, whole[position : position + size], size)
                    position += size
            return failed

        return _Future(finish)

    @staticmethod
    def _parts(item: Any) -> list[tuple[int, int]]:
        item.to_ds_blob_list()  # what the real client does with it
        return [(int(blob.dev_ptr), int(blob.size)) for blob in item.blob_list]

    @staticmethod
    def _table(sizes: Sequence[int]) -> bytes:
        return b"".join(number.to_bytes(_TABLE_ENTRY, "little") for number in (len(sizes), *sizes))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the real module, then puts the emulated client in its place."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        try:
            self._real = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        return self._real and importlib.util.spec_from_loader(name, self, origin=self._real.origin)

    def create_module(self, spec: Any) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert self._real is not None
        assert self._real.loader is not None
        module.__file__ = self._real.origin
        self._real.loader.exec_module(module)
        module.HeteroClient = EmulatedHeteroClient  # type: ignore[attr-defined]


def install() -> None:
    """Put the emulated client in place, in each process that imports torch_npu."""
    sys.meta_path.insert(0, _Finder())
