"""Mistakes that the connector once had, put back one at a time; the random interleavings have to find each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_ascend.distributed.yuanrong import adapters, connector, identity, lookups, recovery, scheduler, worker
from vllm_ascend.distributed.yuanrong.jobs import Job
from vllm_ascend.distributed.yuanrong.transport.base import FULL, REVOKED, TIMEOUT, Guard
from vllm_ascend.distributed.yuanrong.transport.breaker import BreakingTransport
from vllm_ascend.distributed.yuanrong.transport.room import Room

from tests.integration.connector.simulation.clock import Simulation

Changes = list[tuple[Any, str, Any]]


@dataclass(frozen=True)
class Fault:
    """A mistake.

    Attributes:
        name: Its number in the review that found it, and a word where there was none.
        what: What it makes of the connector.
        changes: Returns what is put in which place, for a simulation.
    """

    name: str
    what: str
    changes: Callable[[Simulation], Changes]


def _returning_ids(_: Simulation) -> Changes:
    def free_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        return super(recovery.KVLoadRecoveryMixin, self)._free_request(request, *args, **kwargs)

    return [(recovery.KVLoadRecoveryMixin, "_free_request", free_request)]


def _null_block(_: Simulation) -> Changes:
    return [(scheduler, "NULL_BLOCK", -1)]


def _no_fence(_: Simulation) -> Changes:
    def fence(self: Any) -> Callable[[], None] | None:
        transport = self._ready()
        return (lambda: None) if transport is None else transport.fence()

    return [(BreakingTransport, "fence", fence)]


def _forms_alike(_: Simulation) -> Changes:
    return [(identity, "inner_form", lambda *_: "nd")]


def _waits_again(_: Simulation) -> Changes:
    def clear_hazards(self: Any, new_blocks: list[int]) -> None:
        self._saves = [job for job in self._saves if not job.ended]
        taken = set(new_blocks)
        readers = [job for job in self._saves if not taken.isdisjoint(job.blocks)]
        if readers and not self._wait(lambda: all(job.ended for job in readers), self._config.hazard_timeout_ms):
            for job in readers:
                job.guard.revoke()

    return [(worker.WorkerSide, "_clear_hazards", clear_hazards)]


def _halves_again(_: Simulation) -> Changes:
    def put(self: Any, count: int, item_bytes: int, max_items: int, put: Any) -> list[str | None]:
        causes: list[str | None] = []
        size = max(1, min(max_items, self._limit // item_bytes))
        while len(causes) < count:
            part = min(size, count - len(causes))
            done = put(slice(len(causes), len(causes) + part))
            if done[0] == FULL and part > 1:
                size = part // 2
                continue
            causes += done
            if any(done):
                break
        return causes

    return [(Room, "put", put)]


def _queue_counts(simulation: Simulation) -> Changes:
    def end_overdue_loads(self: Any) -> None:
        for job in self._loads:
            if job.ended:
                continue
            if job.called_off is not None:
                if job.guard.revoke(0):
                    self._fail_load(job, job.called_off)
            elif (simulation.now - job.queued) * 1000 > self._config.load_timeout_ms:
                job.late = True
                self._call_off(job, TIMEOUT)

    return [(worker.WorkerSide, "_end_overdue_loads", end_overdue_loads)]


def _wall_time_blames(simulation: Simulation) -> Changes:
    allocated, load_finished = scheduler.SchedulerSide.allocated, scheduler.SchedulerSide.load_finished
    since: dict[str, float] = {}

    def noted(self: Any, request: Any, block_ids: list[int], num_external: int) -> None:
        since[request.request_id] = simulation.now
        allocated(self, request, block_ids, num_external)

    def finished(self: Any, request_id: str, ok: bool, late: bool = False) -> None:
        took = simulation.now - since.get(request_id, simulation.now)
        load_finished(self, request_id, ok, took * 1000 >= self._config.request_timeout_ms)

    return [(scheduler.SchedulerSide, "allocated", noted), (scheduler.SchedulerSide, "load_finished", finished)]


def _asks_for_each(_: Simulation) -> Changes:
    return [
        (scheduler.SchedulerSide, "admit", lambda self, waiting: []),
        (lookups.Lookups, "may_repeat", lambda self: True),
    ]


def _adapters_by_name(_: Simulation) -> Changes:
    return [(adapters.Adapters, "identity", lambda self, lora: f"{lora.lora_name}:{lora.lora_path}")]


def _reset_unheard(_: Simulation) -> Changes:
    return [(connector.YuanRongConnector, "reset_cache", lambda self: False)]


def _bound_threads(_: Simulation) -> Changes:
    return [(worker, "unbind", lambda: None)]


def _one_after_the_other(_: Simulation) -> Changes:
    take_back = worker.WorkerSide._take_back

    def one_by_one(self: Any, jobs: list[Job]) -> None:
        for job in jobs:
            if not job.ended:
                take_back(self, [job])

    return [(worker.WorkerSide, "_take_back", one_by_one)]


def _without_bound(_: Simulation) -> Changes:
    def take_back(self: Any, jobs: list[Job]) -> None:
        for job in jobs:
            job.called_off = REVOKED
            job.guard.revoke(0)
        for job in jobs:
            job.guard.revoke()
            job.end(REVOKED)

    return [(worker.WorkerSide, "_take_back", take_back)]


def _left_published(_: Simulation) -> Changes:
    return [(worker.WorkerSide, "_discard", lambda self: self._doubtful.clear())]


def _ended_before_cause(simulation: Simulation) -> Changes:
    def end(self: Any, cause: str | None) -> bool:
        if self.ended:
            return False
        self.ended = True
        simulation.sleep(0)
        self.cause = cause and (self.called_off or cause)
        return True

    return [(Job, "end", end)]


def _unasked_is_absent(_: Simulation) -> Changes:
    answer = lookups.Lookups._answer
    return [(lookups.Lookups, "_answer", lambda self, flags, whole: answer(self, flags, True))]


def _plans_in_one_loop(_: Simulation) -> Changes:
    def take_blocks(self: Any, output: Any, plan: Any) -> None:
        """Do nothing: the loop below does it."""

    def plan_saves(self: Any, output: Any, plan: Any) -> None:
        from vllm_ascend.distributed.yuanrong.vllm_forms import new_blocks

        try:
            for new in output.scheduled_new_reqs:
                plan.new_blocks += new.block_ids[0][new.num_computed_tokens // self._block_size :]
                tracked = self._tracked.get(new.req_id)
                if tracked is not None:
                    tracked.blocks = list(new.block_ids[0])
                    tracked.next_save = max(tracked.next_save, tracked.hit_blocks)
                    self._plan_save(new.req_id, tracked, new.num_computed_tokens, output, plan)
            cached = output.scheduled_cached_reqs
            for i, req_id in enumerate(cached.req_ids):
                fresh, resumed = new_blocks(cached.new_block_ids[i]), cached.resumed_from_preemption[i]
                plan.new_blocks += fresh
                tracked = self._tracked.get(req_id)
                if tracked is not None:
                    tracked.blocks = fresh if resumed else tracked.blocks + fresh
                    tracked.next_save = tracked.hit_blocks if resumed else tracked.next_save
                    self._plan_save(req_id, tracked, cached.num_computed_tokens[i], output, plan)
        except MemoryError:
            return

    return [
        (scheduler.SchedulerSide, "_take_blocks", take_blocks), (scheduler.SchedulerSide, "_plan_saves", plan_saves),
    ]  # fmt: skip


def _guard_lets_in(_: Simulation) -> Changes:
    def revoke(self: Any, timeout: float | None = None) -> bool:
        self._revoked = True
        return True

    return [(Guard, "revoke", revoke)]


def _any_order(_: Simulation) -> Changes:
    return [(recovery.KVLoadRecoveryMixin, "_put_the_important_first", lambda self: None)]


def _reset_refused(_: Simulation) -> Changes:
    def reset(self: Any, *args: Any, **kwargs: Any) -> bool:
        if self._tell("reset_cache"):
            self._failed_kv_loads |= self.finished_recving_kv_req_ids
            self._outdated |= {each for each in self.requests.values() if self._waits_for_load(each)}
            self._drop_what_was_loaded()
        return bool(super(recovery.KVLoadRecoveryMixin, self).reset_prefix_cache(*args, **kwargs))

    return [(recovery.KVLoadRecoveryMixin, "reset_prefix_cache", reset)]


FAULTS = [
    Fault("F1", "a request that is aborted while it loads keeps its id until the load has ended", _returning_ids),
    Fault("F2", "what a sliding window has left behind is saved", _null_block),
    Fault("F3", "a save that was queued while the breaker was open waits for no kernel", _no_fence),
    Fault("F4", "keys do not tell two inner forms of a block apart", _forms_alike),
    Fault("F5", "a save that was called off is waited for again in each step", _waits_again),
    Fault("F6", "a full DataSystem is asked for half as much, again and again", _halves_again),
    Fault("F7 queue", "the time in the queue counts as the load's", _queue_counts),
    Fault("F7 blame", "a load that is reported late counts as the DataSystem's fault", _wall_time_blames),
    Fault("F8", "every waiting request is looked up by itself", _asks_for_each),
    Fault("F9 adapter", "an adapter is known by its name and path", _adapters_by_name),
    Fault("F9 weights", "nobody tells the connector of a reset", _reset_unheard),
    Fault("F10", "threads that move blocks keep the engine's cores", _bound_threads),
    Fault("called off in turn", "late saves are called off and waited for one by one", _one_after_the_other),
    Fault("no bound", "a save that was called off is waited for as long as it takes", _without_bound),
    Fault("left published", "what a lost call publishes is not deleted", _left_published),
    Fault("ended first", "a load has ended before its cause is there", _ended_before_cause),
    Fault("unasked", "what a lookup did not ask for counts as absent", _unasked_is_absent),
    Fault("one loop", "an exception in planning loses blocks that change hands", _plans_in_one_loop),
    Fault("any order", "with priorities, a request is preempted that was scheduled in the same step", _any_order),
    Fault("reset refused", "a reset is refused while an aborted load still writes", _reset_refused),
    Fault("guard", "a save or load that was called off goes on", _guard_lets_in),
]  # fmt: skip
