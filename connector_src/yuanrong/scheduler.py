# SPDX-License-Identifier: Apache-2.0
"""Scheduler side: what can be loaded, what is to be saved, and what becomes of each request.

Requests and scheduler outputs are used by duck typing, so this module needs no vLLM. Per request:

.. code-block:: text

    (unknown) --match--> KNOWN --alloc, external > 0--> LOADING --load_finished--> KNOWN
                           |                               |
                           +--finish--> (forgotten)        +--finish--> draining --drained--> (forgotten)

Nothing here raises into the scheduler: what goes wrong is a miss, and a load that cannot be described is a load that
fails, which the mix-in of :mod:`.recovery` turns into a recompute.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .config import ConnectorConfig
from .keys import BlockChain, block_key, media_items
from .metadata import FAILURE_MARK, LoadSpec, SaveSpec, StepPlan
from .metrics import Metrics
from .transport.base import Transport
from .vllm_forms import media, new_blocks, prompt_tokens

logger = logging.getLogger("vllm.yuanrong")


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
    next_save: int = 0  # first block whose saving is not settled
    loads: bool = True  # False once external blocks must not be used any more
    prefilled: bool = False
    counted: bool = False
    loading: list[bytes] = field(default_factory=list)  # what the load under way reads
    load_began: float = 0.0


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
    ) -> None:
        self._config = config
        self._namespace = namespace
        self._block_size = block_size
        self._shards = shards
        self._transport = transport
        self._metrics = metrics
        self._clock = clock
        self._tracked: dict[str, _Tracked] = {}
        self._loads: list[LoadSpec] = []
        self._draining: set[str] = set()
        self._new_drains: list[str] = []
        self._claimed_blocks: list[int] = []
        self._avoided: dict[bytes, float] = {}  # digest -> until when it is not loaded

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
        tracked = self._tracked.get(request.request_id)
        if tracked is not None:
            self._count(tracked)
        if num_external <= 0:
            return
        size = self._block_size
        first = len(block_ids) - num_external // size
        digests: list[bytes] = []
        if tracked is not None:
            tracked.phase = Phase.LOADING
            digests = tracked.chain.digests[first : len(block_ids)]
            tracked.loading, tracked.load_began = digests, self._clock()
        # With a digest missing this spec cannot be carried out; the worker then reports a failed load.
        self._loads.append(LoadSpec(request.request_id, digests, block_ids[first:]))
        self._claimed_blocks += block_ids[first:]
        self._metrics.add("matched_tokens", num_external)

    def plan(self, output: Any) -> StepPlan:
        """Return the step's plan. Loads and drains are always handed over, whatever happens to the saves."""
        plan = StepPlan(self._namespace, loads=self._loads, drains=self._new_drains)
        plan.new_blocks = self._claimed_blocks
        self._loads, self._new_drains, self._claimed_blocks = [], [], []
        if self._config.saves:
            try:
                self._plan_saves(output, plan)
            except Exception:
                logger.exception("saves were not planned")
        for request_id in output.finished_req_ids:
            # A request can end without request_finished (AscendScheduler ignores over-long prompts that way). The id
            # may already belong to a new request, so the request itself is asked.
            tracked = self._tracked.get(request_id)
            if tracked is not None and tracked.request.is_finished():
                del self._tracked[request_id]
        return plan

    def finished(self, request: Any) -> bool:
        """Forget a request; True if a load may still be writing, so that its blocks must be kept until drained."""
        tracked = self._tracked.pop(request.request_id, None)
        if tracked is None or tracked.phase is not Phase.LOADING:
            return False
        # The workers know of the load: vLLM hands a step's loads over in the call that allocated them.
        self._draining.add(request.request_id)
        self._new_drains.append(request.request_id)
        return True

    # -- called by the recovery mix-in ---------------------------------------------------------------------------------

    def load_finished(self, request_id: str, ok: bool) -> None:
        """Take note that all ranks have ended a load."""
        tracked = self._tracked.get(request_id)
        if tracked is None:
            return
        tracked.phase = Phase.KNOWN
        if ok:
            tracked.next_save = max(tracked.next_save, tracked.hit_blocks)
        else:
            self._avoid(tracked)
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

    def drained(self, request_id: str) -> None:
        """Take note that no rank writes to an aborted request's blocks any more."""
        self._draining.discard(request_id)

    # -- inner workings ------------------------------------------------------------------------------------------------

    def _match(self, request: Any, num_local: int) -> int:
        tracked = self._track(request)
        if tracked is None or not self._may_load(request, tracked, num_local):
            return 0
        size = self._block_size
        # At least one token must be left to compute, or there is nothing to sample from.
        usable = int(request.num_tokens - 1) // size
        now = self._clock()
        if tracked.looked_up is None or (now - tracked.looked_up) * 1000 >= self._config.lookup_cache_ms:
            tracked.hit_blocks, tracked.absent_from = self._present(tracked.chain.digests)
            tracked.looked_up = now
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
            and request.request_id not in self._draining
            and not request.request_id.startswith(FAILURE_MARK)
        )

    def _track(self, request: Any) -> _Tracked | None:
        """Return the request's record, made on first sight; None for a request that must not be shared."""
        tracked = self._tracked.get(request.request_id)
        if tracked is not None and tracked.request is request:
            return tracked
        if request.pooling_params is not None:
            return None
        items = media_items(*media(request))
        tokens = prompt_tokens(request)
        if items is None or tokens is None:  # without a hash, two images of one size would have one key
            return None
        lora = request.lora_request
        chain = BlockChain(
            self._namespace,
            self._block_size,
            items,
            None if lora is None else (str(lora.lora_name), str(lora.lora_path)),
            request.cache_salt,
        )
        chain.extend(tokens)
        tracked = self._tracked[request.request_id] = _Tracked(request, chain)
        return tracked

    def _present(self, digests: list[bytes]) -> tuple[int, int | None]:
        """Return how many blocks, from the first one on, every rank can read, and from which one on no rank has any."""
        end = self._first_avoided(digests)
        cut = end < len(digests)
        digests = digests[:end]
        if not digests:
            return 0, None
        keys = [block_key(self._namespace, shard, digest) for digest in digests for shard in self._shards]
        answer = self._transport.exist(keys)
        if answer.cause is not None:
            return 0, None
        found = answer.found
        missing = next((i for i, flag in enumerate(found) if not flag), len(keys))
        last = next((i for i in range(len(found) - 1, -1, -1) if found[i]), -1)
        return missing // len(self._shards), None if cut else last // len(self._shards) + 1

    def _first_avoided(self, digests: list[bytes]) -> int:
        """Return the position of the first block that is not to be loaded now; their number if there is none."""
        if not self._avoided:
            return len(digests)
        now = self._clock()
        return next((i for i, each in enumerate(digests) if self._avoided.get(each, 0) > now), len(digests))

    def _avoid(self, tracked: _Tracked) -> None:
        """After a load that ran into a deadline, keep off its blocks for a while.

        The DataSystem goes on to list blocks whose owner is dead until the cluster gives that worker up, a minute or
        more; each load of them would hold the engine for a deadline. A load that failed at once costs nothing.
        """
        now = self._clock()
        if (now - tracked.load_began) * 1000 < self._config.request_timeout_ms:
            return
        self._avoided = {digest: until for digest, until in self._avoided.items() if until > now}
        self._avoided |= dict.fromkeys(tracked.loading, now + self._config.retry_failed_ms / 1000)

    def _count(self, tracked: _Tracked) -> None:
        if not tracked.counted:
            tracked.counted = True
            self._metrics.add("queried_tokens", tracked.request.num_prompt_tokens)

    def _plan_saves(self, output: Any, plan: StepPlan) -> None:
        for new in output.scheduled_new_reqs:
            blocks = list(new.block_ids[0])
            plan.new_blocks += blocks[new.num_computed_tokens // self._block_size :]
            tracked = self._tracked.get(new.req_id)
            if tracked is not None:
                tracked.blocks = blocks
                tracked.next_save = max(tracked.next_save, tracked.hit_blocks)
                self._plan_save(new.req_id, tracked, new.num_computed_tokens, output, plan)
        cached = output.scheduled_cached_reqs
        for req_id, resumed, new_ids, computed in zip(
            cached.req_ids,
            cached.resumed_from_preemption,
            cached.new_block_ids,
            cached.num_computed_tokens,
            strict=True,
        ):
            fresh = new_blocks(new_ids)
            plan.new_blocks += fresh[computed // self._block_size :] if resumed else fresh
            tracked = self._tracked.get(req_id)
            if tracked is None:
                continue
            if resumed:  # a complete list: the blocks held before may belong to another request by now
                tracked.blocks = fresh
                tracked.next_save = tracked.hit_blocks
            else:
                tracked.blocks += fresh
            self._plan_save(req_id, tracked, computed, output, plan)

    def _plan_save(self, req_id: str, tracked: _Tracked, computed: int, output: Any, plan: StepPlan) -> None:
        """Plan the blocks of one request that this step completes."""
        request = tracked.request
        after = computed + output.num_scheduled_tokens[req_id]
        limit = request.num_tokens if self._config.save_output else request.num_prompt_tokens
        full = min(after, limit) // self._block_size
        if full > tracked.next_save:
            if full > len(tracked.chain.digests):
                tracked.chain.extend(request.all_token_ids, full * self._block_size)
            wanted = slice(tracked.next_save, full)
            absent = tracked.absent_from is not None and tracked.next_save >= tracked.absent_from
            digests, blocks = tracked.chain.digests[wanted], tracked.blocks[wanted]
            tracked.next_save = full
            if len(digests) == len(blocks):
                plan.saves.append(SaveSpec(req_id, digests, blocks, absent))
        if not tracked.prefilled and after >= request.num_prompt_tokens:
            tracked.prefilled = True
            if self._config.saves_before_answer:
                plan.sync_saves.append(req_id)
