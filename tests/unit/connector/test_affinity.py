"""An engine binds itself to some cores; what works for it beside the model is not bound with it."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from yuanrong.announcement import Announcer
from yuanrong.config import ConnectorConfig
from yuanrong.keys import Namespace
from yuanrong.layout import KVLayout
from yuanrong.metadata import LoadSpec, SaveSpec, StepPlan
from yuanrong.metrics import Metrics
from yuanrong.transport import affinity, connect
from yuanrong.transport import breaker as breaker_module
from yuanrong.transport.affinity import unbind, unbound
from yuanrong.transport.base import Guard, Transfer
from yuanrong.worker import WorkerSide

from tests.unit.connector.fakes import FakeTensor, MemoryTransport

DEADLINE = 20


def cores() -> set[int]:
    return os.sched_getaffinity(0)


def settings(**extra: Any) -> ConnectorConfig:
    return ConnectorConfig.from_extra({"worker_address": "h:1", **extra}, "kv_both", {})


@pytest.fixture
def before() -> Iterator[set[int]]:
    """Bind this thread to one core, as an engine does; the cores that it had before."""
    had = cores()
    os.sched_setaffinity(0, {min(had)})
    yield had
    os.sched_setaffinity(0, had)


def test_what_is_done_unbound_may_use_all_cores_and_the_caller_stays_bound(before: set[int]) -> None:
    assert unbound(cores) == before
    assert cores() == {min(before)}


def test_a_thread_that_an_unbound_one_makes_is_not_bound_either(before: set[int]) -> None:
    seen: list[set[int]] = []

    def make_a_thread() -> None:
        thread = threading.Thread(target=lambda: seen.append(cores()))
        thread.start()
        thread.join()

    unbound(make_a_thread)
    assert seen == [before]


def test_what_goes_wrong_unbound_is_raised_to_the_caller() -> None:
    def fail() -> None:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused"):
        unbound(fail)


def test_an_operators_choice_for_the_whole_service_stays_in_force(before: set[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "getppid", os.getpid)  # the starting process has one core, and so has every thread here
    chosen = {min(before)}
    others = {int(entry) for entry in os.listdir("/proc/self/task")} - {threading.get_native_id()}
    had = {}
    for task in others:
        with suppress(ProcessLookupError):
            had[task] = os.sched_getaffinity(task)
    try:
        for task in others:
            with suppress(ProcessLookupError):  # threads of other tests end meanwhile
                os.sched_setaffinity(task, chosen)
        assert unbound(cores) == chosen
    finally:
        for task, allowed in had.items():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(task, allowed)


def test_the_first_process_of_a_container_may_use_what_the_container_may(before: set[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 0)
    assert before <= unbound(cores)


def test_where_cores_cannot_be_set_work_goes_on(monkeypatch: Any) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    unbind()
    assert unbound(lambda: 1) == 1


def test_a_process_that_has_just_ended_is_left_out(monkeypatch: Any) -> None:
    ask = os.sched_getaffinity

    def gone(task: int) -> set[int]:
        if task == os.getppid():
            raise ProcessLookupError
        return ask(task)

    monkeypatch.setattr(os, "sched_getaffinity", gone)
    assert affinity.process_cores() >= cores()


def test_clients_are_made_unbound(before: set[int], monkeypatch: Any) -> None:
    made: list[set[int]] = []

    class Client:
        def __init__(self, **_: Any) -> None:
            made.append(cores())

        def init(self) -> None:
            made.append(cores())

    modules: dict[str, dict[str, Any]] = {
        "yr": {},
        "yr.datasystem": {},
        "yr.datasystem.kv_client": {"KVClient": Client, "SetParam": object},
        "yr.datasystem.object_client": {"WriteMode": types.SimpleNamespace(NONE_L2_CACHE_EVICT="evictable")},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    connect(settings(), "host", None, 700)
    assert made == [before, before]


def test_the_probing_process_is_not_bound(before: set[int], monkeypatch: Any) -> None:
    program = f"import os, sys; sys.exit(os.sched_getaffinity(0) != {before})"
    monkeypatch.setattr(breaker_module, "_PROBE", program)
    assert breaker_module.probe(settings(), lambda _: True)


def test_the_announcing_processes_are_not_bound(before: set[int]) -> None:
    seen: list[set[int]] = []
    done = threading.Event()

    def exchange(own: str, text: str, names: list[str]) -> Mapping[str, str]:
        seen.append(cores())
        done.set()
        return {}

    space = Namespace("m", "", "", "", "", "", 4, 1, 1, 1, 1, "cpu:kv")
    announcer = Announcer(space, "kv_both", exchange)
    announcer.start()
    assert done.wait(DEADLINE)
    announcer.close()
    assert seen == [before]


def test_threads_that_move_blocks_are_not_bound(before: set[int]) -> None:
    layout = KVLayout.from_caches({"l.0": FakeTensor((2, 8, 12))})
    seen: list[set[int]] = []
    both = threading.Semaphore(0)

    class Watched(MemoryTransport):
        def get(self, keys: Any, blocks: Any, guard: Guard) -> Transfer:
            seen.append(cores())
            both.release()
            return super().get(keys, blocks, guard)

        put = get

    side = WorkerSide(settings(), 0, 1, shared=False, metrics=Metrics(), agree=lambda states: states)
    side.attach(layout, Watched(layout=layout))
    digest = b"d" * 32
    side.start(StepPlan(b"n" * 32, loads=[LoadSpec("r", [digest], [1])]))
    side.save(StepPlan(b"n" * 32, saves=[SaveSpec("q", [digest], [2], absent=True)]))
    for _ in range(2):
        assert both.acquire(timeout=DEADLINE)
    side.close()
    assert seen == [before, before]
