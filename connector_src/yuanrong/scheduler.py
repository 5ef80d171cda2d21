# SPDX-License-Identifier: Apache-2.0
"""Scheduler side: what can be loaded, what is to be saved, and what becomes of each request.

Requests and scheduler outputs are used by duck typing, so this module needs no vLLM. Per request:

.. code-block:: text

    (unknown) --match--> KNOWN --alloc, external > 0--> LOADING --load_finished--> KNOWN
                           |                               |
                           +--finish--> (forgotten)        +--finish--> draining --drained--> (forgotten)

A request's id is the client's choice and may name another request at any moment. So loads and drains go by names of
their own, and what is kept under an id counts for the very request it was kept for.

Nothing here raises into the scheduler: what goes wrong is a miss, and a load that cannot be described is a load that
fails, which the mix-in of :mod:`.recovery` turns into a recompute.
"""

from __future__ import annotations

import enum
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .adapters import Adapters
from .config import ConnectorConfig
from .keys import BlockChain, media_items
from .lookups import KEYS_PER_CALL, MAX_INTERVALS, REPEAT_KEYS, Answer, Lookups
from .metadata import LoadSpec, SaveSpec, StepPlan
from .metrics import Metrics
from .transport.base import Transport
from .vllm_forms import media, new_blocks, prompt_tokens

logger = logging.getLogger("vllm.yuanrong")

#: vLLM's block of no content, which stands for what a sliding window has left behind; its bytes are nobody's.
NULL_BLOCK = 0

#: Most tokens whose blocks are named and looked up for the first time in one step: some 30 ms.
TOKENS_PER_STEP = 65536

#: How vLLM calls a request that was never scheduled.
_NOT_BEGUN = ("WAITING", "WAITING_FOR_FSM")


class Phase(enum.Enum):
    """Where a request is."""

    KNOWN = "known"
    LOADING = "loading"


@dataclass
class _Tracked:
    """What is kept of one live request."""

    request: Any
    chain: BlockChain
    phase: Phase = Phase.KNOWN
    blocks: list[int] = field(default_factory=list)
    hit_blocks: int = 0  # blocks known to be in the DataSystem, from the first one on
    absent_from: int | None = None  # from this block on, the last lookup found none; None: nobody knows
    looked_up: float | None = None
    asked_blocks: int = 0  # so many the last lookup was about; what is generated later is in none
    intervals: int = 1  # of lookup_cache_ms until it is looked up again
    next_save: int = 0  # first block whose saving is not settled
    saves: bool = True  # False once nobody knows which blocks it has
    loads: bool = True  # False once external blocks must not be used any more
    prefilled: bool = False
    counted: bool = False
    load_id: str = ""  # of the load under way, or the last one
    loading: list[bytes] = field(default_factory=list)  # what it reads


class SchedulerSide:
    """The connector's half that lives in the scheduler.

    Args:
        config: Settings.
        namespace: ``Namespace.digest()``.
        block_size: Tokens per KV block.
        shards: Shard names of all ranks; a block is present only if all of them are.
        transport: Answers ``exist``.
        metrics: Sink.
        clock: Monotonic seconds.
        adapters: Names LoRA adapters by their content.
    """

    def __init__(
        self,
        config: ConnectorConfig,
        namespace: bytes,
        block_size: int,
        shards: tuple[str, ...],
        transport: Transport,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        adapters: Adapters | None = None,
    ) -> None:
        self._config = config
        self._namespace = namespace
        self._block_size = block_size
        self._transport = transport
        self._lookups = Lookups(config, namespace, shards, transport, lambda: self._clock())
        self._metrics = metrics
        self._clock = clock
        self._adapters = adapters or Adapters()
        self._tracked: dict[str, _Tracked] = {}
        self._queue: list[_Tracked] = []  # whom the step's repeated lookups may take along
        self._numbers = itertools.count()
        self._loads: list[LoadSpec] = []
        self._open_loads: dict[str, Any] = {}  # name of a load whose end was not reported -> its request
        self._draining: dict[str, float] = {}  # name of a load -> when its request was aborted
        self._new_drains: list[str] = []
        self._claimed_blocks: list[int] = []

    # -- called by vLLM's scheduler ------------------------------------------------------------------------------------

    def match(self, request: Any, num_local: int) -> int:
        """Return how many tokens beyond ``num_local`` can be loaded; a multiple of the block size, possibly 0."""
        try:
            return self._match(request, num_local)
        except Exception:
            logger.exception("lookup failed; the request is computed")
            return 0

    def allocated(self, request: Any, block_ids: list[int], num_external: int) -> None:
        """Take note of a request's blocks; with ``num_external`` > 0, queue its load into the last of them."""
        tracked = self._of(request)
        if tracked is not None:
            self._count(tracked)
        if num_external <= 0:
            return
        size = self._block_size
        first = len(block_ids) - num_external // size
        load_id = f"yrload:{next(self._numbers)}"
        digests: list[bytes] = []
        if tracked is not None:
            tracked.phase, tracked.load_id = Phase.LOADING, load_id
            tracked.loading = digests = tracked.chain.digests[first : len(block_ids)]
        # With a digest missing this spec cannot be carried out; the worker then reports a failed load.
        self._loads.append(LoadSpec(request.request_id, digests, block_ids[first:], load_id))
        self._open_loads[load_id] = request
        self._claimed_blocks += block_ids[first:]
        self._metrics.add("matched_tokens", num_external)

    def plan(self, output: Any) -> StepPlan:
        """Return the step's plan. Loads and drains are always handed over, whatever happens to the saves."""
        plan = StepPlan(self._namespace, loads=self._loads, drains=self._new_drains)
        plan.new_blocks = self._claimed_blocks
        self._loads, self._new_drains, self._claimed_blocks = [], [], []
        self._queue = []
        self._lookups.new_step()
        if self._config.saves:
            try:
                self._take_blocks(output, plan)
                self._plan_saves(output, plan)
            except Exception:
                logger.exception("saves were not planned")
                for each in self._tracked.values():  # a list of blocks may lack some: keys would name other blocks
                    each.saves = False
        for request_id in output.finished_req_ids:
            # A request can end without request_finished (AscendScheduler ignores over-long prompts that way). The id
            # may already belong to a new request, so the request itself is asked.
            tracked = self._tracked.get(request_id)
            if tracked is not None and tracked.request.is_finished():
                del self._tracked[request_id]
        return plan

    def finished(self, request: Any) -> bool:
        """Forget a request; True if a load may still be writing, so that its blocks must be kept until drained."""
        tracked = self._of(request)
        if tracked is None:
            return self.draining(request)
        del self._tracked[request.request_id]
        if tracked.phase is not Phase.LOADING:
            return False
        # The workers know of the load: vLLM hands a step's loads over in the call that allocated them.
        self._draining[tracked.load_id] = self._clock()
        self._new_drains.append(tracked.load_id)
        return True

    # -- called by the recovery mix-in ---------------------------------------------------------------------------------

    def admit(self, waiting: Iterable[Any]) -> list[Any]:
        """Before a step: look up, in one call, the requests that the scheduler may consider for the first time.

        Args:
            waiting: The scheduler's queue, in its order.

        Returns:
            Requests to keep out of this step: those behind the first one whose keys that call had no room for.
        """
        try:
            return self._admit(waiting) if self._config.load else []
        except Exception:
            logger.exception("waiting requests were not looked up together")
            return []

    def request_of(self, load_id: str) -> Any | None:
        """Return the request whose load goes by this name, until the load's end was taken note of."""
        return self._open_loads.get(load_id)

    def draining(self, request: Any) -> bool:
        """Whether a finished request's load may still be writing."""
        return any(self._open_loads.get(load_id) is request for load_id in self._draining)

    def awaits_drains(self) -> bool:
        """Whether a drain may still end by itself, so that it is worth looking; a load has had its time after that."""
        now = self._clock()
        return any((now - began) * 1000 < self._config.load_timeout_ms for began in self._draining.values())

    def load_finished(self, request_id: str, ok: bool, late: bool = False) -> None:
        """Take note that all ranks have ended a load; ``late``: it failed, and a call had run into its timeout."""
        tracked = self._tracked.get(request_id)
        if tracked is None:
            return
        tracked.phase = Phase.KNOWN
        self._open_loads.pop(tracked.load_id, None)
        if ok:
            tracked.next_save = max(tracked.next_save, tracked.hit_blocks)
        else:
            if late:
                self._lookups.avoid(tracked.loading)
            self.load_discarded(request_id)
            self._metrics.add("recomputed_requests")

    def load_discarded(self, request_id: str) -> None:
        """Take note that loaded blocks were given up; the request is computed and never loaded again."""
        tracked = self._tracked.get(request_id)
        if tracked is not None:
            tracked.phase = Phase.KNOWN
            tracked.loads = False
            tracked.hit_blocks = tracked.next_save = 0
            tracked.blocks = []

    def drained(self, load_id: str) -> None:
        """Take note that no rank writes to an aborted request's blocks any more."""
        self._draining.pop(load_id, None)
        self._open_loads.pop(load_id, None)

    def renamed(self, namespace: bytes) -> None:
        """Go on under another namespace: nothing that was stored so far is to be loaded any more.

        Requests that have begun keep what they have, as in vLLM, and it is not saved any more. Those that wait get
        names under the new namespace. What is being loaded is of the old one: the mix-in gives it up when it has ended.
        """
        self._namespace = namespace
        self._lookups.renamed(namespace)
        self._queue = []
        self._tracked = {name: each for name, each in self._tracked.items() if each.phase is Phase.LOADING}
        for tracked in self._tracked.values():
            tracked.loads = tracked.saves = False

    # -- inner workings ------------------------------------------------------------------------------------------------

    def _match(self, request: Any, num_local: int) -> int:
        tracked = self._track(request)
        if tracked is None or not self._may_load(request, tracked, num_local):
            return 0
        size = self._block_size
        # At least one token must be left to compute, or there is nothing to sample from.
        usable = int(request.num_tokens - 1) // size
        if tracked.looked_up is None:
            self._look_up([tracked])
        elif self._is_old(tracked) and self._lookups.may_repeat():
            self._look_up(self._with_neighbours(tracked))
        external = min(tracked.hit_blocks, usable) - num_local // size
        if external < self._config.min_load_blocks:
            return 0
        logger.debug("request %s: %d of %d tokens found", request.request_id, external * size, request.num_tokens)
        return external * size

    def _may_load(self, request: Any, tracked: _Tracked, num_local: int) -> bool:
        """Whether an asynchronous load is possible and right in vLLM (docs/connector.md, "What is loaded")."""
        params = request.sampling_params
        return (
            self._config.load
            and tracked.loads
            and tracked.phase is Phase.KNOWN
            and num_local % self._block_size == 0
            and request.status.name != "PREEMPTED"
            and request.num_output_tokens == 0
            and params is not None
            and params.prompt_logprobs is None
        )

    def _of(self, request: Any) -> _Tracked | None:
        """Return what is kept of this very request, and not of another one under its id."""
        tracked = self._tracked.get(request.request_id)
        return tracked if tracked is not None and tracked.request is request else None

    def _track(self, request: Any) -> _Tracked | None:
        """Return the request's record, made on first sight; None for a request that must not be shared."""
        tracked = self._of(request)
        if tracked is not None:
            return tracked
        self._tracked.pop(request.request_id, None)  # of an earlier request under this id
        if request.pooling_params is not None:
            return None
        items = media_items(*media(request))
        tokens = prompt_tokens(request)
        if items is None or tokens is None:  # without a hash, two images of one size would have one key
            return None
        lora = None if request.lora_request is None else self._adapters.identity(request.lora_request)
        if lora is None and request.lora_request is not None:
            return None
        chain = BlockChain(self._namespace, self._block_size, items, lora, request.cache_salt)
        chain.extend(tokens)
        tracked = self._tracked[request.request_id] = _Tracked(request, chain)
        return tracked

    def _admit(self, waiting: Iterable[Any]) -> list[Any]:
        first: list[_Tracked] = []
        held: list[Any] = []
        tokens = keys = 0
        for request in waiting:
            tracked = self._of(request)
            if tracked is not None and tracked.looked_up is not None:
                self._queue.append(tracked)
                continue
            if request.status.name not in _NOT_BEGUN or request.num_computed_tokens > 0:
                continue
            if held:
                held.append(request)
                continue
            if tracked is not None and not self._may_load(request, tracked, 0):
                continue
            tokens += request.num_tokens
            keys += self._lookups.size(request.num_tokens // self._block_size)
            if first and (keys > KEYS_PER_CALL or tokens > TOKENS_PER_STEP):
                held.append(request)
                continue
            tracked = self._track(request)
            if tracked is not None and self._may_load(request, tracked, 0):
                first.append(tracked)
        self._queue += first
        self._look_up(first)
        return held

    def _is_old(self, tracked: _Tracked) -> bool:
        assert tracked.looked_up is not None  # noqa: S101 - callers ask about requests that were looked up
        return (self._clock() - tracked.looked_up) * 1000 >= self._config.lookup_cache_ms * tracked.intervals

    def _with_neighbours(self, tracked: _Tracked) -> list[_Tracked]:
        """Return a request and others of the queue whose answer is old, as many as one small call has room for."""
        chosen = [tracked]
        keys = self._lookups.size(len(tracked.chain.digests))
        for other in self._queue:
            if other is tracked or other.phase is not Phase.KNOWN or not other.loads or not self._is_old(other):
                continue
            keys += self._lookups.size(len(other.chain.digests))
            if keys > REPEAT_KEYS:
                break
            chosen.append(other)
        return chosen

    def _look_up(self, asked: list[_Tracked]) -> None:
        before = [Answer(each.hit_blocks, each.absent_from) if each.looked_up is not None else None for each in asked]
        for tracked in asked:
            tracked.looked_up, tracked.asked_blocks = self._clock(), len(tracked.chain.digests)
        answers = self._lookups.ask_all([tracked.chain.digests for tracked in asked])
        for tracked, old, new in zip(asked, before, answers, strict=True):
            tracked.intervals = min(2 * tracked.intervals, MAX_INTERVALS) if new == old else 1
            tracked.hit_blocks, tracked.absent_from = new.present, new.absent_from

    def _count(self, tracked: _Tracked) -> None:
        if not tracked.counted:
            tracked.counted = True
            self._metrics.add("queried_tokens", tracked.request.num_prompt_tokens)

    def _take_blocks(self, output: Any, plan: StepPlan) -> None:
        """Name every block that changes hands in this step, then note which blocks each request has now."""
        size = self._block_size
        cached = output.scheduled_cached_reqs
        fresh = [new_blocks(each) for each in cached.new_block_ids]
        for new in output.scheduled_new_reqs:
            plan.new_blocks += new.block_ids[0][new.num_computed_tokens // size :]
        for resumed, blocks, computed in zip(
            cached.resumed_from_preemption, fresh, cached.num_computed_tokens, strict=True
        ):
            plan.new_blocks += blocks[computed // size :] if resumed else blocks
        for new in output.scheduled_new_reqs:
            tracked = self._tracked.get(new.req_id)
            if tracked is not None:
                tracked.blocks = list(new.block_ids[0])
                tracked.next_save = max(tracked.next_save, tracked.hit_blocks)
        for req_id, resumed, blocks in zip(cached.req_ids, cached.resumed_from_preemption, fresh, strict=True):
            tracked = self._tracked.get(req_id)
            if tracked is None:
                continue
            if resumed:  # a complete list: the blocks held before may belong to another request by now
                tracked.blocks = blocks
                tracked.next_save = tracked.hit_blocks
            else:
                tracked.blocks += blocks

    def _plan_saves(self, output: Any, plan: StepPlan) -> None:
        cached = output.scheduled_cached_reqs
        scheduled = [(new.req_id, new.num_computed_tokens) for new in output.scheduled_new_reqs]
        scheduled += zip(cached.req_ids, cached.num_computed_tokens, strict=True)
        for req_id, computed in scheduled:
            tracked = self._tracked.get(req_id)
            if tracked is not None:
                self._plan_save(req_id, tracked, computed, output, plan)

    def _plan_save(self, req_id: str, tracked: _Tracked, computed: int, output: Any, plan: StepPlan) -> None:
        """Plan the blocks of one request that this step completes."""
        request = tracked.request
        after = computed + output.num_scheduled_tokens[req_id]
        limit = request.num_tokens if self._config.save_output else request.num_prompt_tokens
        full = min(after, limit) // self._block_size
        if tracked.saves and full > tracked.next_save:
            if full > len(tracked.chain.digests):
                tracked.chain.extend(request.all_token_ids, full * self._block_size)
            wanted = slice(tracked.next_save, full)
            absent = tracked.absent_from is not None and tracked.absent_from <= tracked.next_save
            absent = absent and full <= tracked.asked_blocks
            digests, blocks = tracked.chain.digests[wanted], tracked.blocks[wanted]
            tracked.next_save = full
            here = [i for i, block in enumerate(blocks) if block != NULL_BLOCK]
            if len(digests) == len(blocks) and here:
                plan.saves.append(SaveSpec(req_id, [digests[i] for i in here], [blocks[i] for i in here], absent))
        if not tracked.prefilled and after >= request.num_prompt_tokens:
            tracked.prefilled = True
            if self._config.saves_before_answer:
                plan.sync_saves.append(req_id)
