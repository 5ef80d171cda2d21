# ruff: noqa: D101, D102 - stand-ins are named and shaped like what they stand in for
"""Jobs on one rank and on several: every load ends once, no save reads a block that changed hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from yuanrong import jobs, worker
from yuanrong.config import ConnectorConfig
from yuanrong.jobs import Job
from yuanrong.keys import block_key
from yuanrong.layout import KVLayout
from yuanrong.metadata import FAILURE_MARK, GIVEN_UP_MARK, LATE_MARK, LoadSpec, SaveSpec, StepPlan
from yuanrong.metrics import Metrics
from yuanrong.transport.base import CORRUPT, ERROR, FULL, MISSING, TIMEOUT, UNAVAILABLE, Guard, Transfer
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
    rig = Rig(load_timeout_ms=1, load_queue_timeout_ms=1, load_threads=1)
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
        assert got == {"r", LATE_MARK + "r", "queued", FAILURE_MARK + "queued"}
        held.set()
    assert [read_block(rig.layout, b)[0] for b in (4, 5, 6, 7)] == [4, 5, 6, 7]
    assert rig.counts.seen == {"load_failures:timeout": 1, "load_failures:queued": 1}


def test_a_load_that_is_written_past_its_deadline_is_given_up_and_drained() -> None:
    with running(Rig(load_timeout_ms=1, poll_ms=1)) as rig:
        rig.stock(0, 1)
        gate = rig.gate("get")  # inside the guard
        rig.side.start(load())
        assert gate.entered.wait(DEADLINE)
        assert rig.report() == (set(), {GIVEN_UP_MARK + "r", LATE_MARK + "r"}), "its request waits no longer"
        for _ in range(5):
            rig.side.start(StepPlan(NS))
            assert rig.side.collect() == (set(), set()), "its blocks are still written"
        gate.released.set()
        assert rig.report() == ({"r"}, set())
        assert rig.side.collect() == (set(), set())
        assert read_block(rig.layout, 5)[0] == 5, "the second block was not begun any more"
        assert rig.counts.seen == {"load_failures:timeout": 1}


def test_a_load_is_given_up_when_no_rank_goes_on_with_it() -> None:
    answers = [
        [(False, False), (True, False)],  # lost elsewhere, where it has ended; here it is written
        [(False, False), (True, True)],  # and was called off meanwhile
        [(False, False), (True, True)],
        [(True, False), (True, True)],
    ]
    with running(Rig(size=2, agree=lambda states: answers.pop(0))) as rig:
        rig.stock(0, 1)
        gate = rig.gate("get")
        rig.side.start(load())
        assert gate.entered.wait(DEADLINE)
        assert rig.side.collect() == (set(), set())
        assert rig.side.collect() == (set(), {GIVEN_UP_MARK + "r"}), "no call was late"
        rig.side.start(StepPlan(NS, drains=["r"]))  # the abort crossed the report
        assert rig.side.collect() == (set(), set()), "it is drained once, after its last write"
        gate.released.set()
        assert rig.side.collect() == ({"r"}, set())


def test_where_every_thread_hangs_a_load_fails_at_once() -> None:
    with running(Rig(load_timeout_ms=1, poll_ms=1, load_threads=1)) as rig:
        rig.stock(0, 1)
        gate = rig.gate("get")
        rig.side.start(load())
        assert gate.entered.wait(DEADLINE)
        rig.report()
        rig.side.start(load("q", blocks=(6, 7)))
        assert rig.side.collect() == (set(), {"q", FAILURE_MARK + "q"})
        gate.released.set()
        assert rig.report() == ({"r"}, set())
        assert rig.counts.seen["load_failures:queued"] == 1


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
    assert (first.cause, second.cause) == (None, "revoked")
    assert not rig.side._saves, "what was called off is not waited for again"


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
    answers = [[(False, True), (True, False)], [(True, True), (True, True)]]
    with running(Rig(size=2, agree=lambda states: answers.pop(0))) as rig:
        rig.stock(0, 1)
        rig.side.start(load())
        assert rig.side.collect() == (set(), set())
        assert rig.side.collect() == (set(), {"r"})


def test_a_load_lost_on_one_rank_is_called_off_on_the_others() -> None:
    answers = [[(False, False), (True, False)], [(True, False), (True, True)]]
    rig = Rig(size=2, agree=lambda states: answers.pop(0))
    with running(rig):
        rig.stock(0, 1)
        gate = rig.gate("get")
        rig.side.start(load())
        assert gate.entered.wait(DEADLINE)
        assert rig.side.collect() == (set(), set())
        assert rig.side._loads[0].guard.revoked
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


# -- what was queued is not late ---------------------------------------------------------------------------------------


class Ticking:
    """``time``, for whom hours pass when they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        for module in (worker, jobs):
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now


def by_hand(**extra: Any) -> Rig:
    """Return a rig without threads: the test takes jobs up."""
    rig = Rig(**extra)
    rig.side._transport = rig.transport
    return rig


def test_a_load_has_all_of_its_time_when_a_thread_takes_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Ticking(monkeypatch)
    rig = by_hand(load_timeout_ms=1000, load_queue_timeout_ms=10_000, poll_ms=1)
    rig.stock(0, 1)
    rig.side.start(load())
    clock.now += 9
    assert rig.side.collect() == (set(), set()), "in the queue"
    (job,) = rig.side._loads
    assert job.begin()
    clock.now += 0.9
    assert rig.side.collect() == (set(), set()), "under way"
    clock.now += 0.2
    assert rig.side.collect() == (set(), {"r", LATE_MARK + "r"})
    assert rig.counts.seen == {"load_failures:timeout": 1}


def test_a_load_that_no_thread_takes_up_in_time_is_computed_and_the_datasystem_is_not_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Ticking(monkeypatch)
    rig = by_hand(load_timeout_ms=1000, load_queue_timeout_ms=10_000, poll_ms=1)
    rig.side.start(load())
    (job,) = rig.side._loads
    clock.now += 10.1
    assert rig.side.collect() == (set(), {"r", FAILURE_MARK + "r"})
    assert rig.counts.seen == {"load_failures:queued": 1}
    rig.side._load(job)
    assert not rig.transport.calls, "nor is it begun when its turn comes"


@pytest.mark.parametrize(
    ("cause", "seconds", "mark"),
    [
        (TIMEOUT, 0, LATE_MARK),
        (UNAVAILABLE, 0, FAILURE_MARK),  # the breaker is open: it cost nothing
        (UNAVAILABLE, 3, LATE_MARK),
        (ERROR, 3, LATE_MARK),
        (FULL, 3, LATE_MARK),
        (MISSING, 3, FAILURE_MARK),  # many blocks, one of them evicted
        (CORRUPT, 3, FAILURE_MARK),
    ],
)
def test_a_failed_load_tells_whether_a_call_was_late(
    cause: str, seconds: float, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Ticking(monkeypatch)
    rig = by_hand(request_timeout_ms=2000)

    def get(keys: Any, blocks: Any, guard: Guard) -> Transfer:
        clock.now += seconds
        return Transfer.failed(len(keys), cause)

    rig.transport.get = get  # type: ignore[method-assign]
    rig.side.start(load())
    (job,) = rig.side._loads
    clock.now += 5  # in the queue
    job.end(rig.side._load(job))
    assert rig.side.collect() == (set(), {"r", mark + "r"})


def test_a_call_that_was_late_on_another_rank_is_told_here_too() -> None:
    rig = by_hand(size=2, agree=lambda rows: [(True, False), (False, True)])
    rig.stock(0, 1)
    rig.side.start(load())
    (job,) = rig.side._loads
    job.end(rig.side._load(job))
    assert rig.side.collect() == (set(), {"r", LATE_MARK + "r"})


def test_a_name_that_comes_back_does_not_replace_the_load_that_still_drains() -> None:
    with running(Rig(poll_ms=1)) as rig:
        rig.stock(0, 1, 2)
        gate = rig.gate("get")
        rig.side.start(load())
        assert gate.entered.wait(DEADLINE)
        rig.side.start(StepPlan(NS, drains=["r"]))
        assert rig.side.collect() == (set(), set())
        rig.side.start(load(indices=(2,), blocks=(6,)))
        gate.released.set()
        sending: set[str] = set()
        recving: set[str] = set()
        while not (sending and recving):
            report = rig.report()
            sending |= report[0]
            recving |= report[1]
        assert (sending, recving) == ({"r"}, {"r"})
        assert read_block(rig.layout, 6)[0] == 102


def test_a_reader_never_sees_a_job_that_has_ended_but_not_failed_yet() -> None:
    seen: list[tuple[str, bool]] = []

    class Watched(Job):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name in ("cause", "ended") and value:
                seen.append((name, self.ended))

    Watched(LoadSpec("r", [], []), [], threading.Condition()).end(TIMEOUT)
    assert seen == [("cause", False), ("ended", True)]


# -- what a step waits for, counted ------------------------------------------------------------------------------------


def count_waits(rig: Rig) -> list[int]:
    """Return a list that grows by the bound, in milliseconds, of each wait of the engine's thread."""
    waits: list[int] = []
    wait, engine = rig.side._wait, threading.current_thread()

    def counting(ready: Callable[[], bool], milliseconds: int) -> bool:
        if threading.current_thread() is engine:
            waits.append(milliseconds)
        return wait(ready, milliseconds)

    rig.side._wait = counting  # type: ignore[method-assign]
    return waits


def test_steps_wait_once_for_a_call_that_hangs_and_for_no_save_behind_it() -> None:
    with running(Rig(hazard_timeout_ms=7)) as rig:
        gate = rig.gate("exist")
        rig.side.save(save("a", (0,), (1,)))
        rig.side.save(save("b", (1, 2, 3, 4), (4, 5, 6, 7)))
        assert gate.entered.wait(DEADLINE)
        waits = count_waits(rig)
        for block in (4, 5, 6, 7, 4, 1):
            rig.side.start(StepPlan(NS, new_blocks=[block]))
            write_block(rig.layout, block, b"\xff" * rig.layout.block_bytes)
        assert waits == [7]
        rig.side.save(save("c", (5,), (2,)))
        rig.side.start(StepPlan(NS, new_blocks=[2]))
        assert waits == [7], "nor for one that was queued since"
        gate.released.set()
        rig.until(lambda _: rig.side._saving is None)
        rig.side.save(save("d", (6,), (3,)))
        rig.side.start(StepPlan(NS, new_blocks=[3]))
        assert waits[1:] == [7], "and again when the call has ended"
    assert set(rig.transport.store) == {rig.key(6)}
    assert rig.counts.seen["save_failures:revoked"] == 6


def test_answers_wait_once_for_a_call_that_hangs() -> None:
    with running(Rig("kv_producer", sync_save_timeout_ms=7)) as rig:
        gate = rig.gate("exist")
        waits = count_waits(rig)
        for index in range(4):
            rig.side.start(StepPlan(NS))
            rig.side.save(save(f"r{index}", (index,), (index,), sync_saves=[f"r{index}"]))
            assert gate.entered.wait(DEADLINE)
        assert waits == [7]
        assert rig.counts.seen["save_failures:late"] == 4
        gate.released.set()


def test_a_step_waits_for_the_loads_that_it_calls_off_together(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    revoke = Guard.revoke

    def recording(guard: Guard, timeout: float | None = None) -> bool:
        waits.append(timeout)
        return revoke(guard, timeout)

    monkeypatch.setattr(Guard, "revoke", recording)
    with running(Rig(poll_ms=1, load_threads=3)) as rig:
        rig.stock(0, 1, 2)
        entered, released = threading.Semaphore(0), threading.Event()

        def hold(op: str, key: str) -> None:
            entered.release()
            assert released.wait(DEADLINE)

        rig.transport.fault = hold
        for index in range(3):
            rig.side.start(load(f"r{index}", (index,), (index,)))
        for _ in range(3):
            assert entered.acquire(timeout=DEADLINE)
        rig.side.start(StepPlan(NS, drains=["r0", "r1", "r2"]))
        for _ in range(4):
            assert rig.side.collect() == (set(), set())
            rig.side.start(StepPlan(NS))
        assert waits[0] == worker._CALL_OFF_SECONDS
        assert set(waits[1:]) == {0}
        released.set()
        sending: set[str] = set()
        while len(sending) < 3:
            sending |= rig.report()[0]


def test_saves_do_not_pile_up_behind_a_call_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_QUEUED_SAVES", 2)
    rig = by_hand()
    for index in range(4):
        rig.side.save(save(f"r{index}", (index,), (index,)))
    assert len(rig.side._saves) == 2
    assert rig.counts.seen == {"save_failures:queued": 2}


# -- nothing is published that may be another request's ----------------------------------------------------------------


def test_without_a_fence_nothing_is_saved() -> None:
    with running(Rig("kv_producer")) as rig:
        rig.transport.fence = lambda: None  # type: ignore[method-assign]
        rig.side.save(save(sync_saves=["r"]))
        assert not rig.transport.calls
        assert rig.counts.seen == {"save_failures:unavailable": 2}


class Uncallable:
    """A ``put`` whose copy cannot be called off once it has been submitted, as an NPU's."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.entered, self.released = rig, threading.Event(), threading.Event()

    def __call__(self, keys: Any, blocks: Any, guard: Guard) -> Transfer:
        if not guard.enter():
            return Transfer.failed(len(keys), "revoked")
        self.entered.set()
        assert self.released.wait(DEADLINE)
        for key, block in zip(keys, blocks, strict=True):
            self.rig.transport.store[key] = read_block(self.rig.layout, block)
        guard.leave()
        return Transfer([None] * len(keys))


def test_a_step_waits_for_a_copy_that_cannot_be_called_off() -> None:
    with running(Rig(hazard_timeout_ms=1)) as rig:
        put = rig.transport.put = Uncallable(rig)  # type: ignore[method-assign]
        rig.side.save(save())
        assert put.entered.wait(DEADLINE)
        threading.Timer(0.05, put.released.set).start()
        rig.side.start(StepPlan(NS, new_blocks=[3]))
        assert put.released.is_set()
        write_block(rig.layout, 3, b"\xff" * rig.layout.block_bytes)
        rig.until(lambda _: rig.side._saving is None)
    assert rig.transport.store[rig.key(1)] == bytes([3]) * rig.layout.block_bytes


def test_a_copy_past_its_timeout_holds_no_step_and_what_it_publishes_is_deleted() -> None:
    with running(Rig(hazard_timeout_ms=1, request_timeout_ms=1)) as rig:
        original = rig.transport.put
        put = rig.transport.put = Uncallable(rig)  # type: ignore[method-assign]
        rig.side.save(save())
        assert put.entered.wait(DEADLINE)
        waits = count_waits(rig)
        for _ in range(3):
            rig.side.start(StepPlan(NS, new_blocks=[3]))
            write_block(rig.layout, 3, b"\xff" * rig.layout.block_bytes)
        assert waits == [1], "given up once, and not waited for again"
        assert rig.counts.seen == {"save_failures:timeout": 2}
        refused = ["timeout"]
        rig.transport.fault = lambda op, key: refused.pop() if op == "discard" and refused else None
        put.released.set()
        rig.until(lambda _: rig.side._saving is None)
        assert rig.key(1) in rig.transport.store, "the deletion failed, too"
        rig.transport.put = original  # type: ignore[method-assign]
        rig.side.save(save("q", (2,), (4,)))
        rig.side.start(StepPlan(NS))
        rig.until(lambda _: rig.key(2) in rig.transport.store)
        assert not {rig.key(0), rig.key(1)} & set(rig.transport.store), "it was tried again before the next save"
    assert rig.counts.seen["saved_blocks"] == 1
