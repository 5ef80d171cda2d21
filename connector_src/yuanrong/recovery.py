# SPDX-License-Identifier: Apache-2.0
"""Recovery from failed loads, as a mix-in for vLLM's scheduler and those derived from it.

Neither vLLM 0.10.0 nor 0.11.0 has a way to say that a load failed: to report the request as loaded would be a wrong
answer, not to report it a hang, to raise a dead engine. The worker side therefore reports a failed load as loaded *and*
sets a mark beside it (:data:`.metadata.FAILURE_MARK`); this mix-in takes the mark out, gives the blocks back, and lets
the scheduler compute the request like a new one. The blocks of an asynchronous load are not in the prefix cache before
it has succeeded, so nobody else can have used them.

A request that is aborted while it loads leaves the scheduler at once, with its id; its blocks stay with this mix-in
until no rank writes to them any more. vLLM would keep request and blocks under the id, where the next request of the
same client would find them.

Use ``--scheduler-cls vllm_ascend.distributed.yuanrong.recovery.RecoveringScheduler`` (or
``RecoveringAscendScheduler``).
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

from .config import ConfigError
from .metadata import FAILURE_MARK, GIVEN_UP_MARK, LATE_MARK

if TYPE_CHECKING:
    from .schedulers import RecoveringAscendScheduler, RecoveringScheduler

logger = logging.getLogger("vllm.yuanrong")

__all__ = ["KVLoadRecoveryMixin", "RecoveringAscendScheduler", "RecoveringScheduler"]


def __getattr__(name: str) -> Any:
    """Import the concrete schedulers on first use; the mix-in itself needs no vLLM."""
    if name in ("RecoveringScheduler", "RecoveringAscendScheduler"):
        from . import schedulers

        return getattr(schedulers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class KVLoadRecoveryMixin:
    """Put before a scheduler class: ``class S(KVLoadRecoveryMixin, Scheduler)``."""

    #: What the connector looks for before it agrees to load.
    recovers_failed_kv_loads = True

    # Of the scheduler that this is mixed into.
    connector: Any
    finished_recving_kv_req_ids: set[str]
    kv_cache_manager: Any
    requests: dict[str, Any]
    running: list[Any]
    waiting: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make the scheduler.

        Raises:
            ConfigError: The connector is one of several.
        """
        super().__init__(*args, **kwargs)
        self._failed_kv_loads: set[str] = set()
        self._outdated: set[Any] = set()  # requests that load what was computed before a reset
        self._held: dict[Any, list[list[Any]]] = {}  # aborted request -> its blocks, by cache group
        self._given_up: dict[str, list[list[Any]]] = {}  # name of a load that nobody waits for -> its blocks, likewise
        if any(hasattr(each, "request_of") for each in getattr(self.connector, "_connectors", ())):
            # Loads are reported by names that only their connector can turn into requests: these would wait for ever.
            raise ConfigError("YuanRongConnector cannot be one of several; name it itself as kv_connector")

    def schedule(self) -> Any:
        """Schedule a step.

        What the connector had no time to look up waits for the next step. If loaded but waiting requests hold every
        block, one of them is freed for the next step.
        """
        self._put_the_important_first()
        kept_out = self._tell("admit", self.waiting) or []
        if kept_out:
            self.waiting.remove_requests(kept_out)
        try:
            output = super().schedule()  # type: ignore[misc]
        finally:
            for request in kept_out:  # they were the last ones, and are again
                self.waiting.add_request(request)
        for request in map(self.requests.get, output.finished_req_ids):
            if request is not None and request.status.name == "FINISHED_IGNORED":
                # AscendScheduler drops over-long prompts, which had no blocks before there were loads. Their clients
                # are not told, and may wait for long.
                self._release(request)
        if self.connector is not None and output.total_num_scheduled_tokens == 0 and not self.running and not kept_out:
            self._break_stall()
        return output

    def _put_the_important_first(self) -> None:
        """Let whoever is preempted be one that is not scheduled yet.

        With priorities, vLLM preempts the least important request, also one that it has scheduled in this very step:
        that is an assertion in 0.10.0, and in 0.11.0 two requests that write to one block. It takes them in the order
        of ``running``, so that the least important one has to be the last.
        """
        if getattr(getattr(self, "policy", None), "name", "") == "PRIORITY":
            self.running.sort(key=lambda request: (request.priority, request.arrival_time))

    def has_finished_requests(self) -> bool:
        """Tell whether a step has something to say to the workers, or to hear of them: blocks that come back."""
        return bool(super().has_finished_requests() or (self._held and self._tell("awaits_drains")))  # type: ignore[misc]

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        """Reset vLLM's prefix cache, and have the connector forget what other engines and earlier weights computed.

        What is being loaded, or was loaded and not yet used, is of that kind: these requests are computed instead.
        """
        if self._tell("reset_cache"):
            self._failed_kv_loads |= self.finished_recving_kv_req_ids
            self._outdated |= {each for each in self.requests.values() if self._waits_for_load(each)}
            self._drop_what_was_loaded()
        # vLLM refuses, and tells no caller, while any block is used. Plain vLLM has none left of a request that has
        # gone, so blocks that are kept until a load's last write must not count. Nothing is handed out in between.
        pool = self.kv_cache_manager.block_pool
        kept = [*self._held.values(), *self._given_up.values()]
        for groups in kept:
            self._give_back(groups)
        try:
            return bool(super().reset_prefix_cache(*args, **kwargs))  # type: ignore[misc]
        finally:
            for groups in kept:
                pool.touch(tuple(groups))

    def _drop_what_was_loaded(self) -> None:
        """Let requests that were loaded, and wait for their remaining blocks, begin again."""
        for request in self.waiting:
            if request.status.name == "WAITING" and request.num_computed_tokens > 0:
                self._release(request)

    def _update_from_kv_xfer_finished(self, output: Any) -> None:
        """Take marks out, and ids that the scheduler cannot know any more: the base would keep or trip over them.

        Args:
            output: What has the fields ``finished_recving`` and ``finished_sending``: the model runner's output in vLLM
                0.10.0, its ``kv_connector_output`` in 0.11.0.
        """
        recving = set(output.finished_recving or ())
        sending = set(output.finished_sending or ())
        if not recving and not sending:
            return
        waiting: set[str] = set()
        failed: set[str] = set()
        for name in recving:
            request = self._request_of(name)
            if request is None or request in self._held:
                continue
            if self._waits_for_load(request):
                waiting.add(request.request_id)
                late = LATE_MARK + name in recving
                if late or FAILURE_MARK + name in recving or request in self._outdated:
                    failed.add(request.request_id)
                self._tell("load_finished", request.request_id, request.request_id not in failed, late)
            self._tell("drained", name)
        for request_id in self._give_up(recving):
            waiting.add(request_id)
            failed.add(request_id)
        self._failed_kv_loads |= failed
        if failed:
            logger.warning("%d KV loads failed; these requests are computed instead", len(failed))
        freed: set[str] = set()
        for name in sending:
            request = self._request_of(name)
            if name in self._given_up:
                self._give_back(self._given_up.pop(name))
            elif request in self._held:
                self._give_back(self._held.pop(request))
            elif request is not None and request.is_finished() and self._is_current(request):
                freed.add(request.request_id)
            self._tell("drained", name)
        known = copy.copy(output)
        known.finished_recving, known.finished_sending = waiting, freed
        super()._update_from_kv_xfer_finished(known)  # type: ignore[misc]

    def _update_waiting_for_remote_kv(self, request: Any) -> bool:
        """Tell whether a request's load has ended; a failed one becomes a request without any computed token."""
        if request.request_id not in self._failed_kv_loads:
            return bool(super()._update_waiting_for_remote_kv(request))  # type: ignore[misc]
        self._release(request)
        return True

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Free a finished request; one whose load may still be writing leaves its blocks here, and nothing else."""
        answer = super()._free_request(request, *args, **kwargs)  # type: ignore[misc]
        if self._is_current(request) and self._tell("draining", request):
            self._held[request] = self._take_blocks(request)
            self._free_blocks(request)
        return answer

    def _free_blocks(self, request: Any) -> None:
        """Free a finished request, and what is known of its load: its id may come back with another request."""
        self._outdated.discard(request)
        self._forget(request.request_id)
        super()._free_blocks(request)  # type: ignore[misc]

    def _give_up(self, recving: set[str]) -> list[str]:
        """Let no request wait for a load that may write for long yet: its blocks stay here, it gets others.

        Returns:
            Ids of these requests.
        """
        given_up = []
        for mark in recving:
            name = mark.removeprefix(GIVEN_UP_MARK)
            request = None if name == mark else self._request_of(name)
            if request is not None and request not in self._held and self._waits_for_load(request):
                self._given_up[name] = self._take_blocks(request)
                self._tell("load_finished", request.request_id, False, LATE_MARK + name in recving)
                given_up.append(request.request_id)
        return given_up

    def _take_blocks(self, request: Any) -> list[list[Any]]:
        """Take a request's blocks away from it, without freeing them."""
        managers = self.kv_cache_manager.coordinator.single_type_managers
        return [manager.req_to_blocks.pop(request.request_id, []) for manager in managers]

    def _give_back(self, groups: list[list[Any]]) -> None:
        for blocks in groups:
            self.kv_cache_manager.block_pool.free_blocks(reversed(blocks))

    def _request_of(self, name: str) -> Any | None:
        """Return the request of a report: this connector names loads, others name requests."""
        find = getattr(self.connector, "request_of", self.requests.get)
        return find(name)

    def _is_current(self, request: Any) -> bool:
        """Whether the scheduler knows this very request, and not another one under its id."""
        return self.requests.get(request.request_id) is request

    def _waits_for_load(self, request: Any) -> bool:
        return self._is_current(request) and request.status.name == "WAITING_FOR_REMOTE_KVS"

    def _release(self, request: Any) -> None:
        """Give a waiting request's blocks back and set it to its beginning."""
        self._outdated.discard(request)
        self._forget(request.request_id)
        self.kv_cache_manager.free(request)
        request.num_computed_tokens = 0

    def _forget(self, request_id: str) -> None:
        self._failed_kv_loads.discard(request_id)
        self.finished_recving_kv_req_ids.discard(request_id)

    def _break_stall(self) -> None:
        """Free the last loaded request's blocks if nothing else can ever free any.

        A loaded request that waits for its remaining blocks keeps the loaded ones and cannot be preempted. When such
        requests hold the whole cache, none can go on: vLLM would loop for ever.
        """
        holders = []
        for request in self.waiting:
            if request.status.name == "WAITING_FOR_REMOTE_KVS":
                if request.request_id not in self.finished_recving_kv_req_ids:
                    return  # a load is under way, and its end may change everything
                holders.append(request)
            elif request.num_computed_tokens > 0:
                holders.append(request)
        if not holders:
            return
        victim = holders[-1]
        logger.warning("KV cache exhausted by loaded requests; one of %d is computed instead", len(holders))
        self._release(victim)
        if victim.status.name == "WAITING_FOR_REMOTE_KVS":
            victim.status = type(victim.status)["WAITING"]
        self._tell("load_discarded", victim.request_id)

    def _tell(self, method: str, *args: Any) -> Any:
        """Inform the connector if it is one that wants to know, and return its answer."""
        call = getattr(self.connector, method, None)
        return None if call is None else call(*args)
