# ruff: noqa: D101, D102 - stand-ins are named and shaped like what they stand in for
"""Jobs on one rank and on several: every load ends once, no save reads a block that changed hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from yuanrong import worker
from yuanrong.config import ConnectorConfig
from yuanrong.keys import block_key
from yuanrong.layout import KVLayout
from yuanrong.metadata import FAILURE_MARK, LoadSpec, SaveSpec, StepPlan
from yuanrong.metrics import Metrics
from yuanrong.transport.base import CORRUPT, ERROR, UNAVAILABLE
from yuanrong.worker import WorkerSide

from tests.unit.connector.fakes import FakeTensor, MemoryTransport, read_block, write_block

NS = b"n" * 32
DIGESTS = [bytes([i]) * 32 for i in range(8)]
DEADLINE = 20.0


class Counts(Metrics):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, float] = {}

    def add(self, name: str, amount: float = 1) -> None:
        self.seen[name] = self.seen.get(name, 0) + amount

    def fail(self, name: str, cause: str, amount: float = 1) -> None:
        self.add(f"{name}:{cause}", amount)


class Gate:
    """Holds a transfer until the test lets it go on."""

    def __init__(self, op: str) -> None:
        self.op, self.entered, self.released = op, threading.Event(), threading.Event()

    def __call__(self, op: str, key: str) -> str | None:
        if op == self.op:
            self.entered.set()
            assert self.released.wait(DEADLINE)
        return None


class Rig:
    """A worker side with its threads, over a dictionary."""

    def __init__(
        self, role: str = "kv_both", rank: int = 0, size: int = 1, shared: bool = False, agree: Any = None, **extra: Any
    ) -> None:
        extra = {"load_timeout_ms": 20_000, "sync_save_timeout_ms": 20_000, "hazard_timeout_ms": 20_000, **extra}
        self.config = ConnectorConfig.from_extra({"worker_address": "h:1", **extra}, role, {})
        self.layout = KVLayout.from_caches({"l.0": FakeTensor((2, 8, 12))})
        for block in range(8):
            write_block(self.layout, block, bytes([block]) * self.layout.block_bytes)
        self.transport = MemoryTransport(layout=self.layout)
        self.counts = Counts()
        self.side = WorkerSide(self.config, rank, size, shared=shared, metrics=self.counts, agree=agree)
        self.shard = "m" if shared else f"{rank}of{size}"

    def key(self, index: int) -> str:
        return block_key(NS, self.shard, DIGESTS[index])

    def stock(self, *indices: int) -> None:
        for i in indices:
            self.transport.store[self.key(i)] = bytes([100 + i]) * self.layout.block_bytes

    def gate(self, op: str) -> Gate:
        gate = Gate(op)
        self.transport.fault = gate
        return gate

    def until(self, ready: Callable[[tuple[set[str], set[str]]], bool]) -> tuple[set[str], set[str]]:
        """Run empty steps until something is reported, by time: a busy machine may not run the threads meanwhile."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            report = self.side.collect()
            if ready(report):
                return report
            self.side.start(StepPlan(NS))
        raise AssertionError("nothing was reported")

    def report(self) -> tuple[set[str], set[str]]:
        return self.until(lambda r: bool(r[0] or r[1]))


@contextmanager
def running(rig: Rig) -> Iterator[Rig]:
    rig.side.attach(rig.layout, rig.transport)
    try:
        yield rig
    finally:
        rig.side.close()


def load(rid: str = "r", indices: tuple[int, ...] = (0, 1), blocks: tuple[int, ...] = (4, 5)) -> StepPlan:
    return StepPlan(NS, loads=[LoadSpec(rid, [DIGESTS[i] for i in indices], list(blocks))])


def save(rid: str = "r", indices: tuple[int, ...] = (0, 1), blocks: tuple[int, ...] = (2, 3), **more: Any) -> StepPlan:
    return StepPlan(NS, saves=[SaveSpec(rid, [DIGESTS[i] for i in indices], list(blocks))], **more)


def test_a_load_fills_its_blocks_and_is_reported_once() -> None:
    with running(Rig()) as rig:
        rig.stock(0, 1)
        rig.side.start(load())
        assert rig.report() == (set(), {"r"})
        assert [read_block(rig.layout, b)[0] for b in (3, 4, 5, 6)] == [3, 100, 101, 6]
        assert rig.side.collect() == (set(), set())
        assert rig.counts.seen["loaded_blocks"] == 2
        assert rig.counts.seen["loaded_bytes"] == 2 * rig.layout.block_bytes
    assert rig.transport.closed


@pytest.mark.parametrize("cause", [CORRUPT, UNAVAILABLE])
def test_a_failed_load_is_reported_with_its_mark(cause: str) -> None:
    with running(Rig()) as rig:
        rig.stock(0, 1)
        rig.transport.fault = lambda op, key: cause
        rig.side.start(load())
        assert rig.report() == (set(), {"r", FAILURE_MARK + "r"})
        assert rig.counts.seen == {f"load_failures:{cause}": 1}


def test_a_missing_block_fails_the_whole_load() -> None:
    with running(Rig()) as rig:
        rig.stock(0)
        rig.side.start(load())
        assert rig.report() == (set(), {"r", FAILURE_MARK + "r"})


def test_an_exception_in_a_transport_is_a_failed_load() -> None:
    def explode(op: str, key: str) -> str | None:
        raise ValueError("boom")

    with running(Rig()) as rig:
        rig.stock(0, 1)
        rig.transport.fault = explode
        rig.side.start(load())
        assert rig.report()[1] == {"r", FAILURE_MARK + "r"}


def test_a_load_that_does_not_add_up_fails_without_any_transfer() -> None:
    with running(Rig()) as rig:
        for plan in (load(indices=(0,)), load(indices=(), blocks=())):
            rig.side.start(plan)
            assert rig.side.collect() == (set(), {"r", FAILURE_MARK + "r"})
        assert not rig.transport.calls


def test_before_the_caches_exist_loads_fail_and_saves_are_dropped() -> None:
    rig = Rig()
    rig.side.start(load())
    rig.side.save(save())
    assert rig.side.collect() == (set(), {"r", FAILURE_MARK + "r"})
    rig.side.close()


def test_a_late_load_fails_at_its_deadline_and_never_touches_its_blocks() -> None:
    rig = Rig(load_timeout_ms=1, load_threads=1)
    held = threading.Event()
    original = rig.transport.get

    def slow(keys: Any, blocks: Any, guard: Any) -> Any:
        held.wait(DEADLINE)  # before any block is touched, as a client waits for the network
        return original(keys, blocks, guard)

    rig.transport.get = slow  # type: ignore[method-assign]
    with running(rig):
        rig.stock(0, 1)
        rig.side.start(load())
        rig.side.start(StepPlan(NS, loads=load("queued", blocks=(6, 7)).loads))
        got: set[str] = set()
        while len(got) < 4:
            got |= rig.report()[1]
        assert got == {"r", FAILURE_MARK + "r", "queued", FAILURE_MARK + "queued"}
        held.set()
    assert [read_block(rig.layout, b)[0] for b in (4, 5, 6, 7)] == [4, 5, 6, 7]
    assert rig.counts.seen["load_failures:timeout"] == 2


def test_a_load_that_is_writing_at_its_deadline_is_reported_after_its_write() -> None:
    with running(Rig(load_timeout_ms=1, poll_ms=1)) as rig:
        rig.stock(0, 1)
        gate = rig.gate("get")  # inside the guard
        rig.side.start(load())
        assert gate.entered.wait(DEADLINE)
        for _ in range(5):
            assert rig.side.collect() == (set(), set())
        gate.released.set()
        assert rig.report()[1] == {"r", FAILURE_MARK + "r"}
        assert read_block(rig.layout, 5)[0] == 5, "the second block was not begun any more"


def test_an_aborted_load_is_drained_once_and_not_reported_as_loaded() -> None:
    with running(Rig(poll_ms=1)) as rig:
        rig.stock(0, 1)
        gate = rig.gate("get")
        rig.side.start(load())
        assert gate.entered.wait(DEADLINE)
        rig.side.start(StepPlan(NS, drains=["r"]))
        assert rig.side.collect() == (set(), set()), "a write is under way"
        gate.released.set()
        assert rig.report() == ({"r"}, set())
        assert rig.side.collect() == (set(), set())


def test_an_abort_that_crosses_the_loads_report_is_answered_at_once() -> None:
    with running(Rig()) as rig:
        rig.stock(0, 1)
        rig.side.start(load())
        assert rig.report() == (set(), {"r"})
        rig.side.start(StepPlan(NS, drains=["r"]))
        assert rig.side.collect() == ({"r"}, set())
        assert rig.side.collect() == (set(), set())


def test_a_sync_save_is_published_when_the_step_ends() -> None:
    with running(Rig("kv_producer")) as rig:
        rig.side.start(StepPlan(NS))
        rig.side.save(save(sync_saves=["r"]))
        assert rig.transport.store[rig.key(0)] == bytes([2]) * rig.layout.block_bytes
        assert rig.transport.store[rig.key(1)] == bytes([3]) * rig.layout.block_bytes
        assert rig.transport.fences == 1
        assert rig.counts.seen["saved_blocks"] == 2
        assert rig.side.collect() == (set(), set()), "saves are never reported"


def test_a_sync_save_waits_for_earlier_chunks_too() -> None:
    with running(Rig("kv_producer")) as rig:
        gate = rig.gate("put")
        rig.side.save(save())
        assert gate.entered.wait(DEADLINE)
        gate.released.set()
        rig.side.save(StepPlan(NS, sync_saves=["r"]))
        assert rig.key(1) in rig.transport.store


def test_a_save_begins_with_the_next_step_when_this_ones_tokens_are_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_HOLD_MILLISECONDS", 1000 * DEADLINE)
    with running(Rig()) as rig:
        gate = rig.gate("exist")
        rig.side.save(save())
        assert not gate.entered.wait(0.05)
        rig.side.start(StepPlan(NS))
        assert gate.entered.wait(DEADLINE)
        gate.released.set()
        rig.until(lambda _: all(job.ended for job in rig.side._saves))
    assert rig.counts.seen["saved_blocks"] == 2


def test_without_a_next_step_a_save_begins_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_HOLD_MILLISECONDS", 1)
    with running(Rig()) as rig:
        gate = rig.gate("exist")
        rig.side.save(save())
        assert gate.entered.wait(DEADLINE)
        gate.released.set()


def test_what_an_answer_waits_for_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_HOLD_MILLISECONDS", 1000 * DEADLINE)
    with running(Rig("kv_producer")) as rig:
        rig.side.start(StepPlan(NS))
        rig.side.save(save(sync_saves=["r"]))
        assert rig.key(1) in rig.transport.store
        rig.side.start(StepPlan(NS))
        rig.side.save(save("q", (2,), (4,)))
        rig.side.start(StepPlan(NS))
        rig.side.save(save("q", (3,), (5,), sync_saves=["q"]))
        assert {rig.key(2), rig.key(3)} <= set(rig.transport.store), "the earlier chunk too"


def test_what_was_held_back_is_saved_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_HOLD_MILLISECONDS", 1000 * DEADLINE)
    with running(Rig()) as rig:
        rig.side.save(save())
    assert rig.key(1) in rig.transport.store


def test_a_sync_save_gives_up_at_its_deadline() -> None:
    with running(Rig("kv_producer", sync_save_timeout_ms=1)) as rig:
        gate = rig.gate("exist")
        rig.side.save(save(sync_saves=["r"]))
        assert rig.counts.seen == {"save_failures:late": 2}
        gate.released.set()


def test_what_is_there_already_is_not_written_again() -> None:
    with running(Rig("kv_producer")) as rig:
        rig.stock(0)
        rig.side.save(save(sync_saves=["r"]))
        rig.side.save(save(sync_saves=["r"]))
        assert [call for call in rig.transport.calls if call[0] == "put"] == [("put", 1)]


def test_what_the_lookup_did_not_find_is_asked_for_only_if_this_engine_wrote_it_since() -> None:
    def absent(rid: str, indices: tuple[int, ...]) -> StepPlan:
        spec = SaveSpec(rid, [DIGESTS[i] for i in indices], [2 + i for i in indices], absent=True)
        return StepPlan(NS, saves=[spec], sync_saves=[rid])

    with running(Rig("kv_producer")) as rig:
        rig.side.save(absent("a", (0, 1)))
        assert rig.transport.calls == [("put", 2)]
        rig.side.save(absent("b", (1, 2)))
        assert rig.transport.calls[1:] == [("exist", 2), ("put", 1)]


def test_the_memory_of_what_was_written_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PUBLISHED_KEYS", 2)
    with running(Rig("kv_producer")) as rig:
        rig.side.save(save(indices=(0, 1, 2), blocks=(1, 2, 3), sync_saves=["r"]))
        assert list(rig.side._published) == [rig.key(1), rig.key(2)]


@pytest.mark.parametrize("op", ["exist", "put"])
def test_a_failed_save_is_counted_and_forgotten(op: str) -> None:
    with running(Rig("kv_producer")) as rig:
        rig.transport.fault = lambda o, key: (UNAVAILABLE if op == "exist" else ERROR) if o == op else None
        rig.side.save(save(sync_saves=["r"]))
        assert sum(v for k, v in rig.counts.seen.items() if k.startswith("save_failures")) == 2
        assert not rig.side._saves


def test_a_step_waits_for_saves_of_blocks_that_it_will_write() -> None:
    with running(Rig()) as rig:
        gate = rig.gate("put")
        rig.side.save(save())
        assert gate.entered.wait(DEADLINE)
        threading.Timer(0.01, gate.released.set).start()
        rig.side.start(StepPlan(NS, new_blocks=[3, 7]))
        assert rig.transport.store[rig.key(1)][0] == 3, "the old content, saved before the step goes on"


def test_a_save_that_has_not_begun_in_time_is_called_off() -> None:
    with running(Rig(hazard_timeout_ms=1)) as rig:
        gate = rig.gate("exist")  # waits for the network, outside the guard
        rig.side.save(save())
        assert gate.entered.wait(DEADLINE)
        rig.side.save(save("q", (2,), (3,)))
        rig.side.start(StepPlan(NS, new_blocks=[3]))
        write_block(rig.layout, 3, b"\xff" * rig.layout.block_bytes)
        gate.released.set()
        rig.until(lambda _: all(job.ended for job in rig.side._saves))
    assert b"\xff" * rig.layout.block_bytes not in rig.transport.store.values()
    assert rig.counts.seen["save_failures:revoked"] >= 2


def test_a_save_that_ends_while_the_step_waits_is_not_called_off() -> None:
    rig = Rig()
    rig.side._transport = rig.transport  # no threads: the jobs stay queued
    rig.side.save(save())
    rig.side.save(save("q", (2,), (3,)))
    first, second = rig.side._saves

    def late(ready: Any, milliseconds: int) -> bool:
        first.end(None)
        return False

    rig.side._wait = late  # type: ignore[method-assign]
    rig.side.start(StepPlan(NS, new_blocks=[3]))
    assert (first.guard.revoked, second.guard.revoked) == (False, True)
    assert rig.side._saves == [second]


def test_saves_of_other_blocks_hold_nothing_up() -> None:
    with running(Rig()) as rig:
        gate = rig.gate("put")
        rig.side.save(save())
        assert gate.entered.wait(DEADLINE)
        rig.side.start(StepPlan(NS, new_blocks=[6, 7]))
        rig.side.start(StepPlan(NS))
        assert rig.side._saves
        gate.released.set()


def test_of_a_shared_cache_only_rank_0_saves() -> None:
    for rank, writes in ((0, True), (1, False)):
        with running(Rig("kv_producer", rank=rank, size=2, shared=True, agree=lambda s: s)) as rig:
            rig.side.save(save(sync_saves=["r"]))
            assert (rig.key(0) in rig.transport.store) == writes


def test_a_consumer_has_no_saving_thread() -> None:
    with running(Rig("kv_consumer")) as rig:
        rig.side.save(save(sync_saves=["r"]))
        assert not rig.transport.calls


def test_ranks_report_only_what_all_have_finished() -> None:
    answers: list[list[tuple[bool, bool]]] = [[(False, True)], [(True, True)]]
    with running(Rig(size=2, agree=lambda states: answers.pop(0))) as rig:
        rig.stock(0, 1)
        rig.side.start(load())
        assert rig.side.collect() == (set(), set())
        assert rig.side.collect() == (set(), {"r"})


def test_a_load_lost_on_one_rank_is_called_off_on_the_others() -> None:
    answers = [[(False, False)], [(True, False)]]
    rig = Rig(size=2, agree=lambda states: answers.pop(0))
    with running(rig):
        rig.stock(0, 1)
        gate = rig.gate("get")
        rig.side.start(load())
        assert gate.entered.wait(DEADLINE)
        assert rig.side.collect() == (set(), set())
        assert next(iter(rig.side._loads.values())).guard.revoked
        gate.released.set()
        assert rig.side.collect() == (set(), {"r", FAILURE_MARK + "r"})


def test_with_work_to_compute_nothing_waits_for_loads() -> None:
    with running(Rig(poll_ms=20_000)) as rig:
        rig.stock(0, 1)
        gate = rig.gate("get")
        rig.side.start(load())
        rig.side.save(StepPlan(NS))
        assert rig.side.collect() == (set(), set()), "returns at once, or the test runs into its timeout"
        gate.released.set()
