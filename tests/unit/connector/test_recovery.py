# ruff: noqa: D101, D102 - stand-ins are named and shaped like what they stand in for
"""The mix-in over a scheduler in miniature; the real ones are in tests/integration/connector."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

import pytest
import yuanrong
from yuanrong import recovery
from yuanrong.config import ConfigError
from yuanrong.metadata import FAILURE_MARK, LATE_MARK
from yuanrong.recovery import KVLoadRecoveryMixin


class Status(enum.Enum):
    WAITING = 1
    WAITING_FOR_REMOTE_KVS = 2
    RUNNING = 3
    DONE = 4
    FINISHED_IGNORED = 5


class Req:
    def __init__(self, rid: str, status: Status, computed: int = 0) -> None:
        self.request_id, self.status, self.num_computed_tokens = rid, status, computed

    def is_finished(self) -> bool:
        return self.status is Status.DONE


class Base:
    """What the mix-in relies on of vLLM's scheduler."""

    def __init__(self, *requests: Req, connector: Any = None) -> None:
        self.requests = {r.request_id: r for r in requests}
        self.waiting = Queue(r for r in requests if r.status.name.startswith("WAITING"))
        self.running: list[Req] = []
        self.finished_recving_kv_req_ids: set[str] = set()
        self.connector = connector
        self.freed: list[str] = []
        self.manager = SimpleNamespace(
            req_to_blocks={r.request_id: [f"{r.request_id}1", f"{r.request_id}2"] for r in requests}
        )
        self.given_back: list[list[str]] = []
        self.kv_cache_manager = SimpleNamespace(
            free=lambda r: self.freed.append(r.request_id),
            coordinator=SimpleNamespace(single_type_managers=[self.manager]),
            block_pool=SimpleNamespace(free_blocks=lambda blocks: self.given_back.append(list(blocks))),
        )
        self.scheduled = 0
        self.resets: list[dict[str, Any]] = []
        self.seen: list[Req] = []
        self.finished_req_ids: set[str] = set()

    def reset_prefix_cache(self, **options: Any) -> bool:
        self.resets.append(options)
        return True

    def schedule(self) -> Any:
        self.seen = list(self.waiting)
        return SimpleNamespace(total_num_scheduled_tokens=self.scheduled, finished_req_ids=self.finished_req_ids)

    def _update_from_kv_xfer_finished(self, output: Any) -> None:
        self.finished_recving_kv_req_ids |= output.finished_recving
        for rid in output.finished_sending:
            self._free_blocks(self.requests[rid])

    def _update_waiting_for_remote_kv(self, request: Req) -> bool:
        return request.request_id in self.finished_recving_kv_req_ids

    def _free_request(self, request: Req) -> str:
        if not self.connector.request_finished(request):
            self._free_blocks(request)
        return "params"

    def _free_blocks(self, request: Req) -> None:
        self.manager.req_to_blocks.pop(request.request_id, None)
        del self.requests[request.request_id]

    def has_finished_requests(self) -> bool:
        return bool(self.finished_req_ids)


class Queue(list[Req]):
    """What the mix-in relies on of vLLM's queues."""

    def add_request(self, request: Req) -> None:
        self.append(request)

    def remove_requests(self, requests: list[Req]) -> None:
        self[:] = [request for request in self if request not in requests]


class Recovering(KVLoadRecoveryMixin, Base):
    pass


class Connector:
    """Remembers what it was told; its loads go by the names of requests in capitals."""

    def __init__(self, *loading: Req) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.loads = {r.request_id.upper(): r for r in loading}
        self.kept_out: list[Req] = []
        self.drains: set[str] = set()
        self.forgets = True

    def admit(self, waiting: Any) -> list[Req]:
        return self.kept_out

    def request_of(self, name: str) -> Req | None:
        return self.loads.get(name)

    def request_finished(self, request: Req) -> bool:
        self.drains |= {name for name, loading in self.loads.items() if loading is request}
        return self.draining(request)

    def draining(self, request: Req) -> bool:
        return any(self.loads[name] is request for name in self.drains)

    def reset_cache(self) -> bool:
        return self.forgets

    def awaits_drains(self) -> bool:
        return bool(self.drains)

    def drained(self, name: str) -> None:
        self.drains.discard(name)
        self.loads.pop(name, None)

    def load_finished(self, *args: Any) -> None:
        self.told.append(("load_finished", *args))

    def load_discarded(self, *args: Any) -> None:
        self.told.append(("load_discarded", *args))


LOADING = Status.WAITING_FOR_REMOTE_KVS


def report(scheduler: Recovering, recving: set[str] | None = None, sending: set[str] | None = None) -> None:
    scheduler._update_from_kv_xfer_finished(SimpleNamespace(finished_recving=recving, finished_sending=sending))


def test_a_successful_load_goes_on_as_in_vllm() -> None:
    request = Req("r", LOADING)
    scheduler = Recovering(request, connector=Connector(request))
    report(scheduler, {"R"})
    assert scheduler._update_waiting_for_remote_kv(request)
    assert scheduler.connector.told == [("load_finished", "r", True, False)]
    assert not scheduler.connector.loads
    assert not scheduler.freed


@pytest.mark.parametrize("mark", [FAILURE_MARK, LATE_MARK])
def test_a_failed_load_starts_over(mark: str, caplog: pytest.LogCaptureFixture) -> None:
    request, other = Req("r", LOADING, 8), Req("q", LOADING)
    scheduler = Recovering(request, other, connector=Connector(request, other))
    assert not scheduler._update_waiting_for_remote_kv(request)
    report(scheduler, {"R", mark + "R", "Q"})
    told = sorted(scheduler.connector.told)
    assert told == [("load_finished", "q", True, False), ("load_finished", "r", False, mark == LATE_MARK)]
    assert scheduler._update_waiting_for_remote_kv(request)
    assert request.num_computed_tokens == 0
    assert scheduler.freed == ["r"]
    assert scheduler.finished_recving_kv_req_ids == {"q"}
    assert not scheduler._failed_kv_loads
    assert caplog.messages == ["1 KV loads failed; these requests are computed instead"]


def test_what_was_loaded_or_is_being_loaded_at_a_reset_is_computed_instead() -> None:
    loading, loaded, later = Req("r", LOADING, 8), Req("q", LOADING, 8), Req("z", LOADING, 8)
    scheduler = Recovering(loading, loaded, connector=Connector(loading, loaded, later))
    report(scheduler, {"Q"})
    assert scheduler.reset_prefix_cache(option=1) is True
    assert scheduler.resets == [{"option": 1}]
    assert scheduler._update_waiting_for_remote_kv(loaded)
    assert not scheduler._update_waiting_for_remote_kv(loading), "its blocks are still written to"
    scheduler.requests["z"] = later
    report(scheduler, {"R", "Z"})
    assert scheduler._update_waiting_for_remote_kv(loading)
    assert scheduler.freed == ["q", "r"]
    assert scheduler._update_waiting_for_remote_kv(later), "it began after the reset"
    assert scheduler.freed == ["q", "r"]
    assert not scheduler._outdated


def test_a_reset_of_device_memory_alone_keeps_loads() -> None:
    loading = Req("r", LOADING, 8)
    scheduler = Recovering(loading, connector=Connector(loading))
    scheduler.connector.forgets = False
    assert scheduler.reset_prefix_cache()
    report(scheduler, {"R"})
    assert scheduler._update_waiting_for_remote_kv(loading)
    assert not scheduler.freed


def test_a_request_that_is_aborted_after_a_reset_leaves_nothing() -> None:
    loading = Req("r", LOADING, 8)
    scheduler = Recovering(loading, connector=Connector(loading))
    scheduler.reset_prefix_cache()
    loading.status = Status.DONE
    scheduler._free_request(loading)
    assert not scheduler._outdated


def test_names_that_nobody_waits_for_are_dropped() -> None:
    running, gone = Req("running", Status.RUNNING), Req("gone", Status.DONE)
    scheduler = Recovering(running, connector=Connector(running, gone))
    report(scheduler, {"RUNNING", "GONE", FAILURE_MARK + "GONE", "STRANGER"}, {"running"})
    assert not scheduler.finished_recving_kv_req_ids
    assert "running" in scheduler.requests
    assert not scheduler.connector.loads, "and forgotten"
    report(scheduler)


def aborted() -> tuple[Recovering, Req]:
    """Return a scheduler with a request that was aborted while it loaded."""
    request = Req("r", LOADING)
    scheduler = Recovering(request, connector=Connector(request))
    scheduler.finished_recving_kv_req_ids = {"r"}
    scheduler._failed_kv_loads = {"r"}
    request.status = Status.DONE
    assert scheduler._free_request(request) == "params"
    return scheduler, request


def test_an_aborted_request_leaves_its_blocks_behind_and_nothing_else() -> None:
    scheduler, request = aborted()
    assert not scheduler.requests
    assert not scheduler.manager.req_to_blocks
    assert not scheduler.finished_recving_kv_req_ids
    assert not scheduler._failed_kv_loads
    assert scheduler._held == {request: [["r1", "r2"]]}
    report(scheduler, {"R"})
    assert not scheduler.given_back, "reported before the workers heard of the abort"
    report(scheduler, None, {"R"})
    assert scheduler.given_back == [["r2", "r1"]], "the last one first, as vLLM does it"
    assert not scheduler._held
    assert not scheduler.connector.loads
    report(scheduler, None, {"R"})
    assert len(scheduler.given_back) == 1


def test_its_id_belongs_to_the_next_request_at_once() -> None:
    scheduler, _ = aborted()
    again = Req("r", LOADING)
    scheduler.requests["r"] = again
    report(scheduler, {"R", FAILURE_MARK + "R"}, {"R"})
    assert scheduler.requests == {"r": again}
    assert not scheduler.finished_recving_kv_req_ids
    assert not scheduler._failed_kv_loads


def test_an_idle_engine_goes_on_while_blocks_are_to_come_back() -> None:
    scheduler, _ = aborted()
    assert scheduler.has_finished_requests()
    scheduler.connector.awaits_drains = lambda: False
    assert not scheduler.has_finished_requests(), "it has waited long enough"
    scheduler.finished_req_ids = {"r"}
    assert scheduler.has_finished_requests()
    scheduler.finished_req_ids = set()
    report(scheduler, None, {"R"})
    scheduler.connector.awaits_drains = lambda: True
    assert not scheduler.has_finished_requests(), "nothing is to come back"


def test_a_request_that_does_not_load_is_freed_at_once() -> None:
    request = Req("r", Status.DONE)
    scheduler = Recovering(request, connector=Connector())
    scheduler._free_request(request)
    assert not scheduler.requests
    assert not scheduler._held


def test_what_the_connector_keeps_out_of_a_step_is_back_in_its_place_after_it() -> None:
    first, second, third = (Req(name, Status.WAITING) for name in "abc")
    scheduler = Recovering(first, second, third, connector=Connector())
    scheduler.connector.kept_out = [second, third]
    scheduler.schedule()
    assert scheduler.seen == [first]
    assert scheduler.waiting == [first, second, third]


def test_a_prompt_that_the_scheduler_dropped_keeps_no_blocks() -> None:
    dropped, done = Req("a", Status.FINISHED_IGNORED, 8), Req("b", Status.DONE)
    scheduler = Recovering(dropped, done, connector=Connector())
    scheduler.finished_req_ids = {"a", "b", "gone"}
    scheduler.schedule()
    assert scheduler.freed == ["a"]


@pytest.mark.parametrize(("policy", "order"), [("PRIORITY", "bca"), ("FCFS", "abc"), (None, "abc")])
def test_with_priorities_the_least_important_request_runs_last(policy: str | None, order: str) -> None:
    scheduler = Recovering(connector=Connector())
    if policy is not None:
        scheduler.policy = SimpleNamespace(name=policy)  # type: ignore[attr-defined]
    for name, priority, arrival in (("a", 1, 2.0), ("b", 0, 3.0), ("c", 1, 1.0)):
        request = Req(name, Status.WAITING)
        request.priority, request.arrival_time = priority, arrival  # type: ignore[attr-defined]
        scheduler.running.append(request)
    scheduler.schedule()
    assert "".join(each.request_id for each in scheduler.running) == order


def test_one_of_several_connectors_is_refused() -> None:
    several = SimpleNamespace(_connectors=[SimpleNamespace(), SimpleNamespace(request_of=print)])
    with pytest.raises(ConfigError, match="one of several"):
        Recovering(connector=several)
    Recovering(connector=SimpleNamespace(_connectors=[SimpleNamespace()]))


def test_a_reset_gives_up_what_was_loaded_and_waits_for_blocks() -> None:
    loaded, fresh = Req("a", Status.WAITING, 8), Req("b", Status.WAITING)
    scheduler = Recovering(loaded, fresh, connector=Connector())
    scheduler.reset_prefix_cache()
    assert scheduler.freed == ["a"]
    assert loaded.num_computed_tokens == 0


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


@pytest.mark.parametrize("change", ["loading", "running", "scheduled", "nothing", "no connector", "kept out"])
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
    if change == "kept out":  # a request that was not looked at may go on
        scheduler.waiting.append(Req("c", Status.WAITING))
        scheduler.connector.kept_out = scheduler.waiting[-1:]
    scheduler.schedule()
    assert not scheduler.freed


def test_other_connectors_report_requests_and_are_not_told_anything() -> None:
    loading, sent = Req("r", LOADING), Req("s", Status.DONE)
    scheduler = Recovering(loading, sent, connector=SimpleNamespace(request_finished=lambda request: True))
    scheduler._free_request(sent)
    scheduler.schedule()
    report(scheduler, {"r", "stranger"}, {"s", "stranger"})
    assert scheduler.finished_recving_kv_req_ids == {"r"}
    assert scheduler.requests == {"r": loading}


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
