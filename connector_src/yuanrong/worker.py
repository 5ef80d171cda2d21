# SPDX-License-Identifier: Apache-2.0
"""Worker side: carries out each step's plan on one rank.

Loads and saves run in threads; the engine's thread only hands jobs over and collects results. A load ends in exactly
one of done or failed, by its deadline, and all ranks report it in the same step. A save reads blocks that the scheduler
may hand to another request meanwhile: before such a block is written, its save has copied it or has been called off.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from .config import ConnectorConfig
from .keys import block_key, shard_name
from .layout import KVLayout
from .metadata import FAILURE_MARK, LoadSpec, SaveSpec, StepPlan
from .metrics import Metrics
from .transport.affinity import unbind
from .transport.base import ERROR, REVOKED, TIMEOUT, UNAVAILABLE, Guard, Transport

logger = logging.getLogger("vllm.yuanrong")

#: How long to wait for a copy under way before a load is left to end by itself; one block takes well under this.
_CALL_OFF_SECONDS = 0.02

#: How long a save waits at most for the step after its own. One follows at once, also when no request is left.
_HOLD_MILLISECONDS = 100

#: How many names of published blocks are remembered.
_PUBLISHED_KEYS = 10_000

#: Takes one ``(ended, succeeded)`` pair per outstanding load, and returns for each the minimum over all ranks.
Agree = Callable[[list[tuple[bool, bool]]], list[tuple[bool, bool]]]


class _Job:
    """Blocks on their way, in either direction; ends once, with None for success or a cause."""

    def __init__(self, spec: LoadSpec | SaveSpec, keys: list[str], condition: threading.Condition) -> None:
        self.request_id = spec.request_id
        self.name = spec.name if isinstance(spec, LoadSpec) else spec.request_id
        self.keys = keys
        self.blocks = spec.blocks
        self.absent = isinstance(spec, SaveSpec) and spec.absent
        self.guard = Guard()
        self.started = time.monotonic()
        self.drained = False
        self.fence: Callable[[], None] = lambda: None
        self.held = False
        self.ended = False
        self.cause: str | None = None
        self._condition = condition

    def end(self, cause: str | None) -> bool:
        """Settle the job; False if it was settled before."""
        with self._condition:
            if self.ended:
                return False
            self.ended, self.cause = True, cause
            self._condition.notify_all()
            return True


class WorkerSide:
    """The connector's half that lives next to the model runner.

    Args:
        config: Settings.
        rank: Tensor parallel rank.
        size: Tensor parallel size.
        shared: The cache is the same on every rank (MLA): rank 0 saves, all load.
        metrics: Sink.
        agree: Collective over the ranks; not called when ``size`` is 1.
    """

    def __init__(
        self, config: ConnectorConfig, rank: int, size: int, *, shared: bool, metrics: Metrics, agree: Agree
    ) -> None:
        self._config = config
        self._size = size
        self._shard = shard_name(rank, size, shared=shared)
        self._saves_here = config.saves and (rank == 0 or not shared)
        self._metrics = metrics
        self._agree = agree
        self._condition = threading.Condition()
        self._loads: dict[str, _Job] = {}
        self._drains: list[str] = []
        self._saves: list[_Job] = []
        self._load_queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._save_queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._transport: Transport | None = None
        self._layout: KVLayout | None = None
        self._computed = False
        self._published: dict[str, None] = {}

    def attach(self, layout: KVLayout, transport: Transport) -> None:
        """Begin service, once the KV caches exist.

        Args:
            layout: Where blocks are.
            transport: Moves them.
        """
        self._layout = layout
        self._transport = transport
        for number in range(self._config.load_threads):
            self._spawn(f"yuanrong-load-{number}", self._load_queue, self._load)
        if self._saves_here:
            self._spawn("yuanrong-save", self._save_queue, self._save)

    def start(self, plan: StepPlan) -> None:
        """Before the forward pass: begin the last step's saves, keep saves off blocks that change hands, begin loads.

        A drained load, one whose request was aborted, is called off.
        """
        self._computed = False
        self._let_go()
        self._clear_hazards(plan.new_blocks)
        for name in plan.drains:
            job = self._loads.get(name)
            if job is None:  # it ended and was reported before the abort came
                self._drains.append(name)
            else:
                job.drained = True
                self._call_off(job, REVOKED)
        for spec in plan.loads:
            job = _Job(spec, self._keys(plan.namespace, spec), self._condition)
            self._loads[job.name] = job
            if self._transport is None or len(spec.digests) != len(spec.blocks) or not spec.blocks:
                job.end(ERROR)
            else:
                self._load_queue.put(job)

    def save(self, plan: StepPlan) -> None:
        """After the forward pass: queue this step's saves, and wait for those whose answer has to wait for them.

        The others begin with the next step, when this one's tokens are on their way: the DataSystem client holds the
        interpreter lock for milliseconds, which sampling would have to wait for.
        """
        self._computed = True
        if not self._saves_here or self._transport is None:
            return
        if plan.saves:
            fence = self._transport.fence()  # one event covers the whole pass
            for spec in plan.saves:
                job = _Job(spec, self._keys(plan.namespace, spec), self._condition)
                job.fence = fence
                job.held = not plan.sync_saves
                self._saves.append(job)
                self._save_queue.put(job)
        if plan.sync_saves:
            ids = set(plan.sync_saves)
            awaited = [job for job in self._saves if job.request_id in ids]
            if not self._wait(lambda: all(job.ended for job in awaited), self._config.sync_save_timeout_ms):
                late = sum(len(job.blocks) for job in awaited if not job.ended)
                logger.warning("%d blocks were not published before their answer", late)
                self._metrics.fail("save_failures", "late", late)
        self._saves = [job for job in self._saves if not job.ended]

    def collect(self) -> tuple[set[str], set[str]]:
        """Return the ids to report: drained requests, and ended loads (a failed one with its mark beside it)."""
        sending = set(self._drains)
        self._drains.clear()
        recving: set[str] = set()
        if not self._loads:
            return sending, recving
        if not self._computed:
            # With nothing to compute, the engine would spin through empty steps and starve the loading threads.
            self._wait(lambda: any(job.ended for job in self._loads.values()), self._config.poll_ms)
        now = time.monotonic()
        for job in self._loads.values():
            if not job.ended and (now - job.started) * 1000 > self._config.load_timeout_ms:
                self._call_off(job, TIMEOUT)
        jobs = list(self._loads.values())
        states = [(job.ended, job.cause is None) for job in jobs]
        if self._size > 1:
            states = self._agree(states)
        for job, (ended, ok) in zip(jobs, states, strict=True):
            if not ended:
                if not ok:  # lost on another rank already: no use in going on here
                    self._call_off(job, REVOKED)
                continue
            del self._loads[job.name]
            if job.drained:
                sending.add(job.name)
                continue
            recving.add(job.name)
            if not ok:
                recving.add(FAILURE_MARK + job.name)
        return sending, recving

    def close(self) -> None:
        """Stop the threads and drop the connection."""
        self._let_go()
        for _ in range(self._config.load_threads):
            self._load_queue.put(None)
        self._save_queue.put(None)
        for thread in self._threads:
            thread.join(timeout=self._config.request_timeout_ms / 1000)
        if self._transport is not None:
            self._transport.close()

    # -- inner workings ------------------------------------------------------------------------------------------------

    def _keys(self, namespace: bytes, spec: LoadSpec | SaveSpec) -> list[str]:
        return [block_key(namespace, self._shard, digest) for digest in spec.digests]

    def _spawn(self, name: str, jobs: queue.SimpleQueue[_Job | None], work: Callable[[_Job], str | None]) -> None:
        def run() -> None:
            unbind()  # and with this thread those that it copies with
            while (job := jobs.get()) is not None:
                self._await_release(job)
                try:
                    cause = work(job)
                except Exception:
                    logger.exception("transfer of request %s failed", job.request_id)
                    cause = ERROR
                job.end(cause)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _load(self, job: _Job) -> str | None:
        assert self._transport is not None  # noqa: S101 - threads start in attach
        if job.guard.revoked:
            return REVOKED
        begin = time.monotonic()
        moved = self._transport.get(job.keys, job.blocks, job.guard)
        cause = moved.cause
        if cause is None:
            self._metrics.add("loaded_blocks", len(job.keys))
            self._metrics.add("loaded_bytes", moved.moved_bytes)
            self._metrics.observe("load_seconds", time.monotonic() - begin)
        elif not job.ended:
            self._metrics.fail("load_failures", cause)
        logger.debug("request %s: load of %d blocks: %s", job.request_id, len(job.keys), cause or "done")
        return cause

    def _save(self, job: _Job) -> str | None:
        assert self._transport is not None  # noqa: S101 - threads start in attach
        if job.guard.revoked:
            return self._unsaved(job, REVOKED, len(job.keys))
        begin = time.monotonic()
        missing = list(range(len(job.keys)))
        # Another request of this engine may have saved the same blocks since this one's lookup.
        if not job.absent or any(key in self._published for key in job.keys):
            present = self._transport.exist(job.keys)
            if present.cause is not None:
                return self._unsaved(job, present.cause, len(job.keys))
            missing = [i for i in missing if not present.found[i]]
            if not missing:
                return None
        job.fence()
        moved = self._transport.put([job.keys[i] for i in missing], [job.blocks[i] for i in missing], job.guard)
        saved = moved.causes.count(None)
        self._remember(job.keys)
        self._metrics.add("saved_blocks", saved)
        self._metrics.add("saved_bytes", moved.moved_bytes)
        self._metrics.observe("save_seconds", time.monotonic() - begin)
        logger.debug("request %s: %d of %d blocks saved", job.request_id, saved, len(missing))
        return None if moved.cause is None else self._unsaved(job, moved.cause, len(missing) - saved)

    def _remember(self, keys: list[str]) -> None:
        """Keep the names of the blocks written last; only the saving thread comes here."""
        self._published.update(dict.fromkeys(keys))
        for key in list(self._published)[: max(0, len(self._published) - _PUBLISHED_KEYS)]:
            del self._published[key]

    def _unsaved(self, job: _Job, cause: str, count: int) -> str:
        self._metrics.fail("save_failures", cause, count)
        if cause != UNAVAILABLE:
            logger.debug("request %s: %d blocks not saved: %s", job.request_id, count, cause)
        return cause

    def _await_release(self, job: _Job) -> None:
        if job.held:
            self._wait(lambda: not job.held, _HOLD_MILLISECONDS)

    def _let_go(self) -> None:
        """Let the saves begin that were held back."""
        held = [job for job in self._saves if job.held]
        if not held:
            return
        with self._condition:
            for job in held:
                job.held = False
            self._condition.notify_all()

    def _clear_hazards(self, new_blocks: list[int]) -> None:
        """Let no save read a block that this step's forward pass or loads will write."""
        self._saves = [job for job in self._saves if not job.ended]
        if not self._saves or not new_blocks:
            return
        taken = set(new_blocks)
        readers = [job for job in self._saves if not taken.isdisjoint(job.blocks)]
        if not readers:
            return
        if not self._wait(lambda: all(job.ended for job in readers), self._config.hazard_timeout_ms):
            for job in readers:
                if not job.ended:
                    job.guard.revoke()  # waits for a copy under way; the job then ends by itself
        self._saves = [job for job in self._saves if not job.ended]

    def _call_off(self, job: _Job, cause: str) -> None:
        """End a load now if nothing writes to its blocks at this moment; else it ends when that write has ended."""
        if not job.ended and job.guard.revoke(_CALL_OFF_SECONDS) and job.end(cause):
            self._metrics.fail("load_failures", cause)

    def _wait(self, ready: Callable[[], bool], milliseconds: int) -> bool:
        with self._condition:
            return self._condition.wait_for(ready, milliseconds / 1000)
