# ruff: noqa: D101, D102, D105 - stand-ins are named and shaped like what they stand in for
"""The mix-in over a scheduler in miniature; the real ones are in tests/integration/connector."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

import pytest
import yuanrong
from yuanrong import recovery
from yuanrong.metadata import FAILURE_MARK
from yuanrong.recovery import KVLoadRecoveryMixin


class Status(enum.Enum):
    WAITING = 1
    WAITING_FOR_REMOTE_KVS = 2
    RUNNING = 3
    DONE = 4


class Req:
    def __init__(self, rid: str, status: Status, computed: int = 0) -> None:
        self.request_id, self.status, self.num_computed_tokens = rid, status, computed

    def is_finished(self) -> bool:
        return self.status is Status.DONE


class Base:
    """What the mix-in relies on of vLLM's scheduler."""

    def __init__(self, *requests: Req, connector: Any = None) -> None:
        self.requests = {r.request_id: r for r in requests}
        self.waiting = [r for r in requests if r.status.name.startswith("WAITING")]
        self.running: list[Req] = []
        self.finished_recving_kv_req_ids: set[str] = set()
        self.connector = connector
        self.freed: list[str] = []
        self.kv_cache_manager = SimpleNamespace(free=lambda r: self.freed.append(r.request_id))
        self.scheduled = 0

    def schedule(self) -> Any:
        return SimpleNamespace(total_num_scheduled_tokens=self.scheduled)

    def _update_from_kv_xfer_finished(self, output: Any) -> None:
        self.finished_recving_kv_req_ids |= output.finished_recving
        for rid in output.finished_sending:
            self._free_blocks(self.requests[rid])

    def _update_waiting_for_remote_kv(self, request: Req) -> bool:
        return request.request_id in self.finished_recving_kv_req_ids

    def _free_blocks(self, request: Req) -> None:
        del self.requests[request.request_id]


class Recovering(KVLoadRecoveryMixin, Base):
    pass


class Connector:
    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.told.append((name, *args))


LOADING = Status.WAITING_FOR_REMOTE_KVS


def report(scheduler: Recovering, recving: set[str] | None = None, sending: set[str] | None = None) -> None:
    scheduler._update_from_kv_xfer_finished(SimpleNamespace(finished_recving=recving, finished_sending=sending))


def test_a_successful_load_goes_on_as_in_vllm() -> None:
    request = Req("r", LOADING)
    scheduler = Recovering(request, connector=Connector())
    report(scheduler, {"r"})
    assert scheduler._update_waiting_for_remote_kv(request)
    assert scheduler.connector.told == [("load_finished", "r", True)]
    assert not scheduler.freed


def test_a_failed_load_starts_over() -> None:
    request = Req("r", LOADING, 8)
    scheduler = Recovering(request, connector=Connector())
    assert not scheduler._update_waiting_for_remote_kv(request)
    report(scheduler, {"r", FAILURE_MARK + "r"})
    assert scheduler.connector.told == [("load_finished", "r", False)]
    assert scheduler._update_waiting_for_remote_kv(request)
    assert request.num_computed_tokens == 0
    assert scheduler.freed == ["r"]
    assert not scheduler.finished_recving_kv_req_ids
    assert not scheduler._failed_kv_loads


def test_ids_that_nobody_waits_for_are_dropped() -> None:
    scheduler = Recovering(Req("running", Status.RUNNING), connector=Connector())
    report(scheduler, {"running", "gone", FAILURE_MARK + "gone"}, {"gone", "running"})
    assert not scheduler.finished_recving_kv_req_ids
    assert "running" in scheduler.requests
    report(scheduler)


def test_a_drained_request_is_freed_and_its_traces_with_it() -> None:
    request = Req("r", Status.DONE)
    scheduler = Recovering(request, connector=Connector())
    scheduler.finished_recving_kv_req_ids = {"r"}
    scheduler._failed_kv_loads = {"r"}
    report(scheduler, None, {"r"})
    assert not scheduler.requests
    assert not scheduler.finished_recving_kv_req_ids
    assert not scheduler._failed_kv_loads
    assert scheduler.connector.told == [("drained", "r")]


def stalled(*requests: Req) -> Recovering:
    return Recovering(*requests, connector=Connector())


def test_a_cache_full_of_loaded_requests_gives_one_of_them_up() -> None:
    first, second = Req("a", Status.WAITING, 8), Req("b", Status.WAITING, 8)
    scheduler = stalled(first, second, Req("c", Status.WAITING))
    scheduler.schedule()
    assert scheduler.freed == ["b"]
    assert (first.num_computed_tokens, second.num_computed_tokens) == (8, 0)
    assert scheduler.connector.told == [("load_discarded", "b")]


def test_a_loaded_request_that_the_scheduler_has_not_looked_at_counts_too() -> None:
    request = Req("r", LOADING)
    scheduler = stalled(request)
    scheduler.finished_recving_kv_req_ids = {"r"}
    scheduler.schedule()
    assert scheduler.freed == ["r"]
    assert request.status is Status.WAITING


@pytest.mark.parametrize("change", ["loading", "running", "scheduled", "nothing", "no connector"])
def test_nothing_is_given_up_without_need(change: str) -> None:
    scheduler = stalled(Req("a", Status.WAITING, 0 if change == "nothing" else 8), Req("b", LOADING))
    if change != "loading":
        scheduler.finished_recving_kv_req_ids = {"b"}
    if change == "nothing":
        scheduler.waiting.pop()
    if change == "running":
        scheduler.running = [Req("x", Status.RUNNING)]
    if change == "scheduled":
        scheduler.scheduled = 1
    if change == "no connector":
        scheduler.connector = None
    scheduler.schedule()
    assert not scheduler.freed


def test_other_connectors_are_not_told_anything() -> None:
    scheduler = Recovering(Req("r", LOADING), connector=object())
    report(scheduler, {"r"})
    assert scheduler.finished_recving_kv_req_ids == {"r"}


def test_the_package_imports_its_heavy_parts_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    schedulers, connector = SimpleNamespace(RecoveringScheduler=1), SimpleNamespace(YuanRongConnector=2)
    monkeypatch.setitem(sys.modules, "yuanrong.schedulers", schedulers)
    monkeypatch.setitem(sys.modules, "yuanrong.connector", connector)
    monkeypatch.setattr(yuanrong, "schedulers", schedulers, raising=False)
    assert getattr(recovery, "Recovering" + "Scheduler") == 1
    assert getattr(yuanrong, "YuanRong" + "Connector") == 2
    for module in (recovery, yuanrong):
        with pytest.raises(AttributeError, match="nonsense"):
            _ = module.nonsense
