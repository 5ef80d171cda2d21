# ruff: noqa: D101, D102 - stand-ins are named and shaped like what they stand in for
"""Transports over clients that keep the DataSystem's manners: blocks come back as they went, and failure is data."""

from __future__ import annotations

import ctypes
import struct
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from yuanrong.config import ConnectorConfig
from yuanrong.layout import KVLayout, LayoutError
from yuanrong.transport import base, connect, host, npu, reachable, resolve_kind
from yuanrong.transport.base import Guard, Transfer, batches, classify

from tests.unit.connector.fakes import Device, FakeTensor, read_block, write_block

KEY = "yr1_0_0of1_" + "ab" * 32
KEY2 = "yr1_0_0of1_" + "cd" * 32
KEY3 = "yr1_0_0of1_" + "ef" * 32


def settings(**extra: Any) -> ConnectorConfig:
    return ConnectorConfig.from_extra({"worker_address": "h:1", **extra}, "kv_both", {})


def small_layout(device: Device | None = None) -> KVLayout:
    layout = KVLayout.from_caches({f"l.{i}": FakeTensor((2, 6, 12), device=device) for i in range(2)})
    for block in range(6):
        write_block(layout, block, bytes((block * 40 + i) % 256 for i in range(layout.block_bytes)))
    return layout


class _Buffer:
    def __init__(self, key: str, size: int) -> None:
        self.key, self.data = key, bytearray(size)

    def MutableData(self) -> memoryview:
        return memoryview(self.data)


class Client:
    """A KVClient: strict types, RuntimeError for everything."""

    def __init__(self) -> None:
        self.store: dict[str, bytes] = {}
        self.error: Exception | None = None
        self.deleted: list[str] = []
        self.modes: set[Any] = set()

    def _maybe_fail(self) -> None:
        if self.error is not None:
            raise self.error

    def exist(self, keys: list[str]) -> list[bool]:
        self._maybe_fail()
        assert type(keys) is list
        assert len(keys) <= 10_000
        return [k in self.store for k in keys]

    def mcreate(self, keys: list[str], sizes: list[int], mode: Any, ttl: int) -> list[_Buffer]:
        self._maybe_fail()
        self.modes.add(mode)
        return [_Buffer(k, n) for k, n in zip(keys, sizes, strict=True)]

    def mset_buffer(self, buffers: list[_Buffer]) -> None:
        self._maybe_fail()
        for buffer in buffers:
            self.store[buffer.key] = bytes(buffer.data)

    def get_buffers(self, keys: list[str], timeout: int) -> list[memoryview | None]:
        self._maybe_fail()
        values = [self.store.get(k) for k in keys]
        if not any(values):
            raise RuntimeError("code: [Key not found], msg: [Cannot get objects from worker]")
        return [None if v is None else memoryview(v) for v in values]

    def delete(self, keys: list[str]) -> list[str]:
        self._maybe_fail()
        self.deleted += keys
        for key in keys:
            self.store.pop(key, None)
        return []


@pytest.mark.parametrize("checksum", ["sum64", "crc32", "none"])
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_blocks_come_back_as_they_went(checksum: str, batch_bytes: int) -> None:
    client, layout = Client(), small_layout()
    transport = host.HostTransport(client, settings(checksum=checksum, batch_bytes=batch_bytes), layout, "evictable")
    before = [read_block(layout, b) for b in range(6)]
    assert transport.put([KEY, KEY2], [1, 4], Guard()) == Transfer([None, None], 2 * layout.block_bytes)
    assert client.modes == {"evictable"}
    assert transport.exist([KEY, KEY2, KEY3]).found == [True, True, False]
    assert transport.get([KEY2, KEY], [0, 5], Guard()) == Transfer([None, None], 2 * layout.block_bytes)
    after = [read_block(layout, b) for b in range(6)]
    assert after == [before[4], *before[1:5], before[1]]


def test_what_is_missing_is_named() -> None:
    client, layout = Client(), small_layout()
    transport = host.HostTransport(client, settings(), layout, None)
    assert transport.get([KEY, KEY2], [0, 1], Guard()).causes == [base.MISSING, base.MISSING]
    transport.put([KEY], [0], Guard())
    assert transport.get([KEY, KEY2], [0, 1], Guard()).causes == [None, base.MISSING]
    assert transport.exist([KEY3]) == base.Presence([False])


def damage(change: Callable[[bytearray], Any]) -> tuple[list[str | None], Client, bool]:
    client, layout = Client(), small_layout()
    transport = host.HostTransport(client, settings(), layout, None)
    transport.put([KEY], [1], Guard())
    data = bytearray(client.store[KEY])
    client.store[KEY] = bytes(change(data) or data)
    before = read_block(layout, 2)
    causes = transport.get([KEY], [2], Guard()).causes
    after = read_block(layout, 2)
    assert after == before or causes == [None] or after == bytes(len(after))  # never a damaged object's bytes
    return causes, client, after == before


def poke(position: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[position] ^= 1

    return change


@pytest.mark.parametrize(
    "change",
    [
        poke(0), poke(4), poke(6), poke(25), poke(30), poke(45), poke(64), poke(-1),
        lambda d: d[:-1], lambda d: d[:64], lambda d: d[:63], lambda d: d[:1], lambda d: bytes(len(d)),
        lambda d: d[:64] + d[88:112] + d[64:88] + d[112:],
    ],
)  # fmt: skip
def test_a_damaged_object_is_found_out_and_dropped(change: Callable[[bytearray], Any]) -> None:
    causes, client, _ = damage(change)
    assert causes == [base.CORRUPT]
    assert client.deleted == [KEY]


def test_an_object_of_another_form_is_a_failure_but_is_left_alone() -> None:
    causes, client, untouched = damage(poke(10))
    assert causes == [base.LAYOUT]
    assert untouched
    assert not client.deleted


def test_an_object_under_another_blocks_key_is_found_out() -> None:
    client, layout = Client(), small_layout()
    transport = host.HostTransport(client, settings(), layout, None)
    transport.put([KEY], [1], Guard())
    client.store[KEY2] = client.store[KEY]
    assert transport.get([KEY2], [2], Guard()).causes == [base.CORRUPT]


def test_a_buffer_may_be_longer_than_what_was_written() -> None:
    causes, _, _ = damage(lambda d: d + bytes(64))
    assert causes == [None]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("code: [RPC unavailable], msg: [[RPC_RECV_TIMEOUT] ..."), base.TIMEOUT),
        (RuntimeError("Not ready"), base.UNAVAILABLE),
        (RuntimeError("code: [Out of memory]"), base.FULL),
        (TypeError("strange"), base.ERROR),
    ],
)
def test_no_exception_leaves_a_transport(error: Exception, cause: str) -> None:
    client, layout = Client(), small_layout()
    transport = host.HostTransport(client, settings(batch_bytes=1), layout, None)
    client.error = error
    assert transport.exist([KEY, KEY2]) == base.Presence([False, False], cause)
    assert transport.get([KEY, KEY2], [0, 1], Guard()).causes == [cause, cause]
    assert transport.put([KEY, KEY2], [0, 1], Guard()).causes == [cause, cause]


def test_a_corrupt_object_that_cannot_be_deleted_is_still_only_a_failure() -> None:
    client, layout = Client(), small_layout()
    transport = host.HostTransport(client, settings(), layout, None)
    client.store[KEY] = b"short"

    def refuse(keys: list[str]) -> list[str]:
        raise RuntimeError("no")

    client.delete = refuse  # type: ignore[method-assign]
    assert transport.get([KEY], [0], Guard()).causes == [base.CORRUPT]


def test_all_missing_may_also_be_said_by_an_error() -> None:
    client = Client()
    client.error = RuntimeError("code: [Key not found]")
    assert host.HostTransport(client, settings(), None, None).exist([KEY]) == base.Presence([False])
    assert npu.NpuTransport(client, settings(), None, (None,) * 3, None).exist([KEY]) == base.Presence([False])


def test_many_keys_are_asked_in_parts_up_to_the_first_miss() -> None:
    client = Client()
    client.store = dict.fromkeys((f"k{i}" for i in range(9000)), b"x")
    for transport in (
        host.HostTransport(client, settings(), None, None),
        npu.NpuTransport(client, settings(), None, (None,) * 3, None),
    ):
        keys = [f"k{i}" for i in range(20_000)]
        assert transport.exist(keys).found == [True] * 9000 + [False] * 11_000
        assert transport.exist([]).found == []


def test_a_revoked_put_publishes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "GUARD_BYTES", 1)
    client, layout, guard = Client(), small_layout(), Guard()
    transport = host.HostTransport(client, settings(), layout, None)
    entered = guard.enter
    seen: list[bool] = []

    def enter_once() -> bool:
        if seen:
            guard.revoke(0)
        seen.append(True)
        return entered()

    guard.enter = enter_once  # type: ignore[method-assign]
    assert transport.put([KEY, KEY2], [0, 1], guard).causes == [None, base.REVOKED]
    assert list(client.store) == [KEY]


def test_a_revoked_get_writes_nothing() -> None:
    client, layout, guard = Client(), small_layout(), Guard()
    transport = host.HostTransport(client, settings(), layout, None)
    transport.put([KEY], [0], Guard())
    before = read_block(layout, 3)
    guard.revoke()
    assert transport.get([KEY], [3], guard).causes == [base.REVOKED]
    assert transport.put([KEY2], [3], guard).causes == [base.REVOKED]
    assert read_block(layout, 3) == before


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("allowed", range(7))
def test_a_revoked_batch_tells_of_each_block_what_became_of_it(
    threads: int, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "GUARD_BYTES", 1)
    monkeypatch.setattr("yuanrong.transport.threads.SHARE_BYTES", 1)
    monkeypatch.setattr("yuanrong.transport.threads.ITEM_BYTES", 1)
    names, again = ([f"{i:02x}" * 32 for i in range(start, start + 6)] for start in (0, 6))
    client, layout = Client(), small_layout()
    saved = [read_block(layout, block) for block in range(6)]
    transport = host.HostTransport(client, settings(copy_threads=threads), layout, None)
    assert transport.put(names, list(range(6)), Guard()).cause is None

    class Brief(Guard):
        """Lets a number of blocks through."""

        def __init__(self) -> None:
            super().__init__()
            self.left = allowed

        def enter(self) -> bool:
            with self._condition:
                self.left -= 1
                return self.left >= 0 and super().enter()  # a Condition's lock may be taken twice

    written = transport.put(again, list(range(6)), Brief())
    assert [name in client.store for name in again] == [c is None for c in written.causes]
    assert set(written.causes) <= {None, base.REVOKED}
    assert written.causes.count(None) <= allowed

    for block in range(6):
        write_block(layout, block, bytes(layout.block_bytes))
    read = transport.get(names, list(range(6)), Brief())
    assert read.causes.count(None) == allowed
    assert read.moved_bytes == allowed * layout.block_bytes
    for block, cause in enumerate(read.causes):
        assert cause in (None, base.REVOKED)
        assert read_block(layout, block) == (bytes(layout.block_bytes) if cause else saved[block])


def test_a_guard_waits_for_whoever_is_inside() -> None:
    guard = Guard()
    assert guard.enter()
    assert not guard.revoke(timeout=0)
    assert guard.revoked
    assert not guard.enter()
    guard.leave()
    assert guard.revoke(timeout=0)


def test_a_guard_is_abandoned_only_while_somebody_is_inside() -> None:
    guard = Guard()
    assert guard.enter()
    assert not guard.revoke(timeout=0)
    assert guard.abandon()
    assert guard.abandoned
    guard.leave()
    over = Guard()
    over.revoke()
    assert not over.abandon()
    assert not over.abandoned


def test_blocks_that_were_given_away_under_a_copy_are_not_published() -> None:
    client, layout, guard = Client(), small_layout(), Guard()
    transport = host.HostTransport(client, settings(), layout, None)
    leave = guard.leave

    def abandon_first() -> None:
        guard.revoke(0)
        guard.abandon()
        leave()

    guard.leave = abandon_first  # type: ignore[method-assign]
    assert transport.put([KEY, KEY2], [0, 1], guard).causes == [base.REVOKED] * 2
    assert not client.store


def test_a_put_that_was_called_off_asks_for_no_room() -> None:
    client, layout, guard = Client(), small_layout(), Guard()
    guard.revoke()
    assert host.HostTransport(client, settings(), layout, None).put([KEY], [0], guard).causes == [base.REVOKED]
    assert not client.modes, "mcreate was not called"


def test_objects_are_discarded_and_what_is_not_there_is_no_failure() -> None:
    client = Client()
    for transport in (
        host.HostTransport(client, settings(), None, None),
        npu.NpuTransport(client, settings(), None, (None,) * 3, None),
    ):
        client.store = {KEY: b"x"}
        assert transport.discard([KEY, KEY2]) is None
        assert not client.store
        for error, cause in (("code: [Key not found]", None), ("Not ready", base.UNAVAILABLE)):

            def fail(keys: list[str], error: str = error) -> list[str]:
                raise RuntimeError(error)

            client.delete = fail  # type: ignore[method-assign]
            assert transport.discard([KEY]) == cause
        client.delete = lambda keys: keys  # type: ignore[method-assign]
        assert transport.discard([KEY]) == base.ERROR
        del client.delete


def test_into_a_full_pool_a_put_makes_one_call_and_the_next_ones_none() -> None:
    """Of 64 blocks, each job tried seven sizes, and each try held the interpreter lock for the client's timeout."""
    now = [0.0]
    calls: list[int] = []

    def wait_for_room(keys: list[str], *_: Any) -> Any:
        calls.append(len(keys))
        now[0] += 2.0
        raise RuntimeError("code: [Out of memory]")

    client, hetero = Client(), Hetero()
    client.mcreate = hetero.async_mset_d2h = wait_for_room  # type: ignore[assignment, method-assign]
    names = [f"{number:02x}" * 32 for number in range(6)]
    for transport in (
        host.HostTransport(client, settings(), small_layout(), None),
        npu.NpuTransport(
            hetero, settings(), small_layout(Device("npu", 3)), (Blob, DeviceBlobList, None), Npu(hetero.events)
        ),
    ):
        calls.clear()
        transport._room._clock = lambda: now[0]
        for _ in range(3):
            assert transport.put(names, list(range(6)), Guard()).causes == [base.FULL] * 6
        assert calls == [6]
        now[0] += 2.0
        assert transport.put(names, list(range(6)), Guard()).causes == [base.FULL] * 6
        assert calls == [6, 1]


def test_host_work_needs_no_fence_and_close_drops_the_client() -> None:
    transport = host.HostTransport(Client(), settings(), small_layout(), None)
    transport.fence()()
    transport.close()
    assert transport._client is None


def test_an_object_with_a_broken_header_is_not_copied() -> None:
    causes, _, untouched = damage(poke(0))
    assert causes == [base.CORRUPT]
    assert untouched


def test_a_batch_without_room_is_published_in_halves() -> None:
    class Small(Client):
        def mcreate(self, keys: list[str], sizes: list[int], mode: Any, ttl: int) -> list[_Buffer]:
            if len(keys) > 2 or KEY3 in keys:
                raise RuntimeError("code: [Out of memory]")
            return super().mcreate(keys, sizes, mode, ttl)

    client, layout = Small(), small_layout()
    transport = host.HostTransport(client, settings(), layout, None)
    names = [KEY, KEY2, *(f"{number:02x}" * 32 for number in range(3))]
    assert transport.put(names, list(range(5)), Guard()) == Transfer([None] * 5, 5 * layout.block_bytes)
    assert list(client.store) == names
    assert transport.put([KEY, KEY3, KEY2], [0, 1, 2], Guard()).causes == [None, base.FULL, base.FULL]


def test_reading_asks_for_more_while_calls_are_quick_and_for_less_when_they_are_not() -> None:
    pace = host.Pace(64 << 20)
    assert pace.count(1 << 20) == 16
    assert pace.count(1 << 30) == 1
    assert pace.count(1) == host.MAX_BATCH_KEYS
    pace.took(1 << 20, 0.001)
    assert pace.count(1 << 20) == 16, "a small call says nothing about a large one"
    for expected in (32, 64, 64):
        pace.took(pace.count(1 << 20) << 20, host.CALL_SECONDS / 2)
        assert pace.count(1 << 20) == expected
    pace.took(64 << 20, 1.5 * host.CALL_SECONDS)
    assert pace.count(1 << 20) == 64
    for expected in (32, 16, 16):
        pace.took(64 << 20, 3 * host.CALL_SECONDS)
        assert pace.count(1 << 20) == expected
    assert host.Pace(4 << 20).count(1 << 20) == 4


def test_batches_respect_both_limits() -> None:
    assert [(s.start, s.stop) for s in batches(5, 10, 20, 100)] == [(0, 2), (2, 4), (4, 5)]
    assert [(s.start, s.stop) for s in batches(3, 10, 5, 100)] == [(0, 1), (1, 2), (2, 3)]
    assert [(s.start, s.stop) for s in batches(4, 0, 5, 3)] == [(0, 3), (3, 4)]
    assert batches(0, 1, 1, 1) == []


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("code: [Key not found]", base.MISSING), ("Future get timeout", base.TIMEOUT),
        ("deadline exceeded", base.TIMEOUT),
        ("[RPC_RECV_TIMEOUT] ... RPC Retry detail: [ RPC unavailable * 1 Out of memory * 3 ] in 2000 ms.", base.FULL),
        ("Failed to connect", base.UNAVAILABLE), ("RPC unavailable", base.UNAVAILABLE), ("no space left", base.FULL),
        ("rpc: method not found, unavailable", base.UNAVAILABLE), ("?", base.ERROR),
    ],
)  # fmt: skip
def test_causes_are_told_apart_by_the_clients_messages(text: str, cause: str) -> None:
    assert classify(RuntimeError(text)) == cause


# -- NPU ---------------------------------------------------------------------------------------------------------------


class Blob:
    def __init__(self, dev_ptr: int, size: int) -> None:
        self.dev_ptr, self.size = dev_ptr, size


class DeviceBlobList:
    def __init__(self, dev_idx: int, blob_list: list[Blob], src_offset: int = 0) -> None:
        self.dev_idx, self.blob_list = dev_idx, blob_list


class Future:
    def __init__(self, work: Callable[[], list[str]], polls: int) -> None:
        self.work, self.polls = work, polls

    def get(self, timeout_ms: int = 60000) -> list[str]:
        if self.polls:
            self.polls -= 1
            raise RuntimeError("Future get timeout, please try again")
        return self.work()


class Hetero(Client):
    """A HeteroClient over real memory: keeps the sizes with the object and refuses others, as the DataSystem does."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, list[int]] = {}
        self.events: list[str] = []
        self.params: list[Any] = []

    def async_mset_d2h(self, keys: list[str], lists: list[DeviceBlobList], param: Any) -> Future:
        def work() -> list[str]:
            self._maybe_fail()
            self.events.append("d2h")
            self.params.append(param)
            for key, blobs in zip(keys, lists, strict=True):
                assert blobs.dev_idx == 3
                self.sizes[key] = [b.size for b in blobs.blob_list]
                self.store[key] = b"".join(ctypes.string_at(b.dev_ptr, b.size) for b in blobs.blob_list)
            return []

        return Future(work, 2)

    def async_mget_h2d(self, keys: list[str], lists: list[DeviceBlobList], sub_timeout_ms: int) -> Future:
        def work() -> list[str]:
            self._maybe_fail()
            failed = []
            for key, blobs in zip(keys, lists, strict=True):
                if self.sizes.get(key) != [b.size for b in blobs.blob_list]:
                    failed.append(key)
                    continue
                position = 0
                for b in blobs.blob_list:
                    ctypes.memmove(b.dev_ptr, self.store[key][position : position + b.size], b.size)
                    position += b.size
            return failed

        return Future(work, 1)


class Npu:
    """``torch.npu``."""

    def __init__(self, events: list[str]) -> None:
        self.events, self.devices = events, []  # type: ignore[var-annotated]

    def set_device(self, index: int) -> None:
        self.devices.append(index)

    def current_stream(self) -> str:
        return "stream"

    def Event(self) -> Npu:
        return self

    def record(self, stream: str) -> None:
        self.events.append(f"record {stream}")

    def synchronize(self) -> None:
        self.events.append("synchronize")


def npu_transport(**extra: Any) -> tuple[npu.NpuTransport, Hetero, KVLayout, Npu]:
    client, layout = Hetero(), small_layout(Device("npu", 3))
    device = Npu(client.events)
    config = settings(**extra)
    return npu.NpuTransport(client, config, layout, (Blob, DeviceBlobList, "evictable"), device), client, layout, device


@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_npu_blocks_come_back_as_they_went(batch_bytes: int) -> None:
    transport, client, layout, device = npu_transport(batch_bytes=batch_bytes)
    before = [read_block(layout, b) for b in range(6)]
    assert transport.put([KEY, KEY2], [1, 4], Guard()) == Transfer([None, None], 2 * layout.block_bytes)
    assert set(client.params) == {"evictable"}
    assert transport.get([KEY2, KEY], [0, 5], Guard()) == Transfer([None, None], 2 * layout.block_bytes)
    assert [read_block(layout, b) for b in range(6)] == [before[4], *before[1:5], before[1]]
    assert set(device.devices) == {3}, "the tensors' device, not device 0"


def test_npu_copies_wait_for_the_kernels_before_them() -> None:
    transport, client, _, _ = npu_transport()
    wait = transport.fence()
    wait()
    transport.put([KEY], [1], Guard())
    assert client.events == ["record stream", "synchronize", "d2h"]


def test_npu_failures_are_data() -> None:
    transport, client, _, _ = npu_transport(batch_bytes=1)
    transport.put([KEY], [1], Guard())
    assert transport.get([KEY, KEY2, KEY3], [0, 1, 2], Guard()).causes == [None, base.MISSING, base.MISSING]
    client.error = RuntimeError("No device manager available")
    assert transport.put([KEY, KEY2], [0, 1], Guard()).causes == [base.ERROR, base.ERROR]
    assert transport.exist([KEY]) == base.Presence([False], base.ERROR)
    guard = Guard()
    guard.revoke()
    assert transport.get([KEY], [0], guard).causes == [base.REVOKED]


def test_npu_transfers_are_waited_for_past_their_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submitted transfer cannot be taken back: giving it up would let it write into somebody else's block."""
    transport, _, _, _ = npu_transport(request_timeout_ms=1)
    clock = iter(range(100))
    monkeypatch.setattr(npu, "time", types.SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda s: None))
    assert transport.put([KEY], [1], Guard()).causes == [None]


def test_the_scheduler_side_of_the_npu_transport_needs_no_device() -> None:
    transport = npu.NpuTransport(Hetero(), settings(), None, (None,) * 3, None)
    assert transport.exist([KEY]).found == [False]
    transport.close()
    transport2 = npu.NpuTransport(Hetero(), settings(), small_layout(Device("npu", 3)), (Blob, DeviceBlobList, 0), None)
    assert transport2.put([KEY], [1], Guard()).causes == [None]


# -- connecting --------------------------------------------------------------------------------------------------------


class _SetParam:
    write_mode: Any = "sticky"
    ttl_second = 0


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put modules in place of the DataSystem's client library; returns the arguments that clients were made with."""
    made: list[dict[str, Any]] = []

    def recording(kind: type) -> Any:
        def make(**arguments: Any) -> Any:
            made.append(arguments)
            client = kind()
            client.init = lambda: made.append({"init": True})
            return client

        return make

    mode = types.SimpleNamespace(NONE_L2_CACHE_EVICT="evictable")
    modules = {
        "yr": {}, "yr.datasystem": {},
        "yr.datasystem.kv_client": {"KVClient": recording(Client), "SetParam": _SetParam},
        "yr.datasystem.object_client": {"WriteMode": mode},
        "yr.datasystem.hetero_client": {
            "HeteroClient": recording(Hetero), "Blob": Blob, "DeviceBlobList": DeviceBlobList,
        },
        "torch_npu": {"npu": Npu([])},
    }  # fmt: skip
    for name, content in modules.items():
        module = types.ModuleType(name)
        for key, value in content.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_clients_get_their_arguments_by_name_and_only_lasting_ones(library: list[dict[str, Any]]) -> None:
    transport = connect(settings(ttl_seconds=5), "host", None, 700)
    assert isinstance(transport, host.HostTransport)
    assert library[0] == {"host": "h", "port": 1, "connect_timeout_ms": 2000, "req_timeout_ms": 700}
    assert library[1] == {"init": True}


def test_npu_writes_are_evictable_and_may_expire(library: list[dict[str, Any]]) -> None:
    for layout in (None, small_layout(Device("npu", 3))):
        transport = connect(settings(ttl_seconds=5), "npu", layout, 700)
        assert isinstance(transport, npu.NpuTransport)
        assert (transport._set_param.write_mode, transport._set_param.ttl_second) == ("evictable", 5)
        assert (transport._device is None) == (layout is None)


def test_the_transport_follows_the_device() -> None:
    assert resolve_kind(settings(), "cpu") == resolve_kind(settings(transport="host"), "cpu") == "host"
    assert resolve_kind(settings(), "npu") == "npu"
    with pytest.raises(LayoutError, match="cuda"):
        resolve_kind(settings(), "cuda")
    with pytest.raises(LayoutError, match="use 'host'"):
        resolve_kind(settings(transport="npu"), "cpu")


def test_a_closed_port_is_not_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(settings(worker_address=f"127.0.0.1:{port}"))
    assert not reachable(settings(worker_address=f"127.0.0.1:{port}"))


def test_a_header_is_64_bytes() -> None:
    assert host.HEADER.size == 64
    assert struct.calcsize(host.HEADER.format) % 8 == 0
