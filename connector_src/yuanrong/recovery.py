# SPDX-License-Identifier: Apache-2.0
"""Recovery from failed loads, as a mix-in for vLLM's scheduler and those derived from it.

Neither vLLM 0.10.0 nor 0.11.0 has a way to say that a load failed: to report the request as loaded would be a wrong
answer, not to report it a hang, to raise a dead engine. The worker side therefore reports a failed load as loaded *and*
sets a mark beside it (:data:`.metadata.FAILURE_MARK`); this mix-in takes the mark out, gives the blocks back, and lets
the scheduler compute the request like a new one. The blocks of an asynchronous load are not in the prefix cache before
it has succeeded, so nobody else can have used them.

Use ``--scheduler-cls vllm_ascend.distributed.yuanrong.recovery.RecoveringScheduler`` (or
``RecoveringAscendScheduler``).
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

from .metadata import FAILURE_MARK

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
        super().__init__(*args, **kwargs)
        self._failed_kv_loads: set[str] = set()

    def schedule(self) -> Any:
        """Schedule a step; if loaded but waiting requests hold every block, free one of them for the next step."""
        output = super().schedule()  # type: ignore[misc]
        if self.connector is not None and output.total_num_scheduled_tokens == 0 and not self.running:
            self._break_stall()
        return output

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
        waiting = {rid for rid in recving if self._waits_for_load(rid)}
        failed = {rid for rid in waiting if FAILURE_MARK + rid in recving}
        freed = {rid for rid in sending if rid in self.requests and self.requests[rid].is_finished()}
        self._failed_kv_loads |= failed
        for request_id in waiting:
            self._tell("load_finished", request_id, request_id not in failed)
        for request_id in sending:
            self._tell("drained", request_id)
        if failed:
            logger.warning("%d KV loads failed; these requests are computed instead", len(failed))
        known = copy.copy(output)
        known.finished_recving, known.finished_sending = waiting, freed
        super()._update_from_kv_xfer_finished(known)  # type: ignore[misc]

    def _update_waiting_for_remote_kv(self, request: Any) -> bool:
        """Tell whether a request's load has ended; a failed one becomes a request without any computed token."""
        if request.request_id not in self._failed_kv_loads:
            return bool(super()._update_waiting_for_remote_kv(request))  # type: ignore[misc]
        self._release(request)
        return True

    def _free_blocks(self, request: Any) -> None:
        """Free a finished request, and what is known of its load: its id may come back with another request."""
        self._forget(request.request_id)
        super()._free_blocks(request)  # type: ignore[misc]

    def _waits_for_load(self, request_id: str) -> bool:
        request = self.requests.get(request_id)
        return request is not None and request.status.name == "WAITING_FOR_REMOTE_KVS"

    def _release(self, request: Any) -> None:
        """Give a waiting request's blocks back and set it to its beginning."""
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

    def _tell(self, method: str, *args: Any) -> None:
        """Inform the connector if it is one that wants to know."""
        call = getattr(self.connector, method, None)
        if call is not None:
            call(*args)
