# ruff: noqa: D102 - stand-ins are named and shaped like what they stand in for
"""A dead DataSystem costs one deadline, then nothing, until a probe finds it back."""

from __future__ import annotations

import subprocess
import threading
from typing import Any

import pytest
from yuanrong.config import ConnectorConfig
from yuanrong.layout import KVLayout
from yuanrong.transport import breaker as breaker_module
from yuanrong.transport.base import CORRUPT, ERROR, REVOKED, TIMEOUT, UNAVAILABLE, Guard, Presence, Transfer
from yuanrong.transport.breaker import BreakingTransport, probe

from tests.unit.connector.fakes import FakeTensor, MemoryTransport


class World:
    """A DataSystem that can be switched off."""

    def __init__(self, up: bool = True, failures: int = 1) -> None:
        self.up = up
        self.cause: str | None = None
        self.refuse = False
        self.connected: list[MemoryTransport] = []
        self.changes: list[bool] = []
        self.back = threading.Event()
        self.probes = threading.Semaphore(0)
        self.breaker = BreakingTransport(self.connect, self.alive, 0.001, failures, self.change)

    def connect(self) -> MemoryTransport:
        if self.refuse:
            raise RuntimeError("refused")
        transport = MemoryTransport({"k": b""}, fault=lambda op, key: self.cause)
        self.connected.append(transport)
        return transport

    def alive(self) -> bool:
        self.probes.release()
        return self.up

    def change(self, is_open: bool) -> None:
        self.changes.append(is_open)
        if not is_open:
            self.back.set()

    def wait_for_probes(self, count: int) -> None:
        for _ in range(count):
            assert self.probes.acquire(timeout=10)


def test_calls_go_through_while_all_is_well() -> None:
    world = World()
    world.breaker.start()
    assert not world.breaker._open
    assert world.breaker.exist(["k", "x"]) == Presence([True, False])
    wait = world.breaker.fence()
    assert wait is not None
    wait()
    assert world.connected[0].fences == 1
    assert world.breaker.discard(["k"]) is None
    assert world.breaker.exist(["k"]).found == [False]
    guard = Guard()
    guard.revoke()
    world.connected[0].layout = KVLayout.from_caches({"l.0": FakeTensor((2, 4, 8))})
    assert world.breaker.get(["k"], [0], guard) == Transfer([REVOKED])
    assert world.breaker.put(["k"], [0], guard) == Transfer([REVOKED])
    world.breaker.close()
    assert world.connected[0].closed


@pytest.mark.parametrize("cause", [TIMEOUT, UNAVAILABLE])
def test_one_outage_is_paid_for_once_and_ends_by_a_probe(cause: str) -> None:
    world = World()
    world.breaker.start()
    world.back.clear()
    world.up, world.cause = False, cause
    assert world.breaker.exist(["k"]) == Presence([False], cause)
    assert world.breaker._open
    calls = len(world.connected[0].calls)
    guard = Guard()
    assert world.breaker.exist(["k", "l"]) == Presence([False, False], UNAVAILABLE)
    assert world.breaker.get(["k"], [0], guard) == Transfer([UNAVAILABLE])
    assert world.breaker.put(["k"], [0], guard) == Transfer([UNAVAILABLE])
    assert world.breaker.discard(["k"]) == UNAVAILABLE
    assert len(world.connected[0].calls) == calls, "nothing reached the DataSystem"
    world.wait_for_probes(3)
    assert world.changes == [False, True]
    world.up, world.cause = True, None
    assert world.back.wait(10)
    assert world.breaker.exist(["k"]) == Presence([True])
    assert world.changes == [False, True, False]
    assert world.connected[0].closed
    world.breaker.close()


def test_work_is_marked_while_the_breaker_is_open_for_it_may_close_before_the_save() -> None:
    world = World()
    world.breaker.start()
    world.up, world.cause = False, TIMEOUT
    world.breaker.exist(["k"])
    assert world.breaker._open
    assert world.breaker.fence() is not None
    assert world.connected[0].fences == 1
    world.breaker.close()


def test_a_start_without_the_datasystem_is_degraded_and_heals() -> None:
    world = World(up=False)
    world.breaker.start()
    assert world.breaker.exist(["k"]).cause == UNAVAILABLE
    assert world.breaker.fence() is None
    world.refuse = True
    world.up = True
    world.wait_for_probes(3)
    assert not world.back.is_set()
    world.refuse = False
    assert world.back.wait(10)
    assert world.breaker.exist(["k"]).found == [True]


def test_a_client_that_cannot_even_be_imported_degrades_too() -> None:
    world = World()
    world.refuse = True
    world.breaker.start()
    assert world.breaker._open
    world.breaker.close()


@pytest.mark.parametrize("cause", [CORRUPT, ERROR])
def test_a_bad_object_is_no_outage(cause: str) -> None:
    world = World()
    world.breaker.start()
    world.cause = cause
    world.breaker.exist(["k"])
    assert not world.breaker._open


def test_the_number_of_failures_in_a_row_can_be_raised() -> None:
    world = World(failures=2)
    world.breaker.start()
    for cause in (TIMEOUT, None, TIMEOUT):
        world.cause = cause
        world.breaker.exist(["k"])
        assert not world.breaker._open
    world.up = False
    world.breaker.exist(["k"])
    assert world.breaker._open
    world.breaker._trip("again")
    assert world.changes == [False, True]
    world.breaker.close()


def test_a_closed_breaker_starts_no_probe() -> None:
    world = World(up=False)
    world.breaker.close()
    world.breaker.start()
    assert world.changes == []


def test_the_probe_runs_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ConnectorConfig.from_extra({"worker_address": "h:1"}, "kv_both", {"YUANRONG_DS_TOKEN": "hush"})
    ran: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        ran.append((command, options))
        return subprocess.CompletedProcess(command, 0 if len(ran) == 1 else 1)

    monkeypatch.setattr(subprocess, "run", run)
    assert not probe(config, lambda c: False)
    assert not ran, "a closed port needs no process"
    assert probe(config, lambda c: True)
    assert not probe(config, lambda c: True)
    assert "hush" not in " ".join(ran[0][0]), "arguments are visible to everybody"
    assert b"hush" in ran[0][1]["input"]

    def hang(*_: Any, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("probe", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    assert not probe(config, lambda c: True)


def test_the_probes_program_is_python() -> None:
    compile(breaker_module._PROBE, "probe", "exec")


class Ticking:
    """Hours that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_outage_that_the_probe_does_not_see_is_tried_less_and_less_often() -> None:
    """A dead worker elsewhere fails the calls while the probe of this host's worker succeeds: pauses go on growing."""
    clock, pauses, back = Ticking(), [], threading.Event()
    transport = MemoryTransport({"k": b""}, fault=lambda op, key: TIMEOUT)
    made = BreakingTransport(
        lambda: transport, lambda: True, 1.0, on_change=lambda is_open: None if is_open else back.set(), clock=clock
    )
    made.start()

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return False

    made._closed = Impatient()
    for quiet in (0.1, 0.1, 0.1, 0.1, 8.1, 0.1):
        clock.now += quiet  # since it was found back
        back.clear()
        assert made.exist(["k"]).cause == TIMEOUT
        assert back.wait(10)
    assert pauses == [1, 2, 4, 8, 1, 2], "after a long time without failure it begins anew"
