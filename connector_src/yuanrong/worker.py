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
from collections import OrderedDict
from collections.abc import Callable

from .config import ConnectorConfig
from .jobs import Job
from .keys import block_key, shard_name
from .layout import KVLayout
from .metadata import FAILURE_MARK, GIVEN_UP_MARK, LATE_MARK, LoadSpec, SaveSpec, StepPlan
from .metrics import Metrics
from .transport.affinity import unbind
from .transport.base import ERROR, FULL, LATE, QUEUED, REVOKED, TIMEOUT, UNAVAILABLE, Transport

logger = logging.getLogger("vllm.yuanrong")

#: How long a step waits, for all loads together that it calls off, until a copy under way has ended; one block takes
#: well under this. A load that is not over by then ends by itself.
_CALL_OFF_SECONDS = 0.02

#: How long a save waits at most for the step after its own. One follows at once, also when no request is left.
_HOLD_MILLISECONDS = 100

#: How many names of published blocks are remembered.
_PUBLISHED_KEYS = 10_000

#: How many saves wait for the saving thread at most, so that they do not pile up behind a call that hangs.
_QUEUED_SAVES = 1000

#: Takes rows of two flags, as many on every rank, and returns for each row the minimum over all ranks.
Agree = Callable[[list[tuple[bool, bool]]], list[tuple[bool, bool]]]


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
        self._loads: list[Job] = []  # in the order of all ranks; a name may come back while its first load is drained
        self._drains: list[str] = []
        self._saves: list[Job] = []
        self._load_queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._save_queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._transport: Transport | None = None
        self._layout: KVLayout | None = None
        self._computed = False
        self._call_off_seconds = _CALL_OFF_SECONDS  # what is left of this step's
        self._saving: Job | None = None  # what the saving thread is at
        self._hanging: dict[str, Job | None] = {}  # kind of wait -> what the saving thread was at when it ran out
        self._published: OrderedDict[str, None] = OrderedDict()  # the saving thread's own, like the next one
        self._doubtful: dict[str, None] = {}  # keys of blocks that were given away under a copy that did not end

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
        self._call_off_seconds = _CALL_OFF_SECONDS
        self._let_go()
        self._clear_hazards(plan.new_blocks)
        for name in plan.drains:
            live = [job for job in self._loads if job.name == name and not job.drained]
            if not live:  # it ended and was reported before the abort came
                self._drains.append(name)
            for job in live:
                job.drained = True
                self._call_off(job, REVOKED)
        for spec in plan.loads:
            job = Job(spec, self._keys(plan.namespace, spec), self._condition)
            self._loads.append(job)
            if self._transport is None or len(spec.digests) != len(spec.blocks) or not spec.blocks:
                self._fail_load(job, ERROR)
            elif self._every_load_thread_hangs():
                self._fail_load(job, QUEUED)
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
            self._queue_saves(plan, self._transport.fence())  # one event covers the whole pass
        if plan.sync_saves:
            ids = set(plan.sync_saves)
            awaited = [job for job in self._saves if job.request_id in ids]
            if not self._wait_for_saves("answer", awaited, self._config.sync_save_timeout_ms):
                late = sum(len(job.blocks) for job in awaited if not job.ended)
                logger.warning("%d blocks were not published before their answer", late)
                self._metrics.fail("save_failures", LATE, late)
        self._saves = [job for job in self._saves if not job.ended]

    def collect(self) -> tuple[set[str], set[str]]:
        """Return the names to report: drained loads, and ended loads (a failed one with its mark beside it).

        A load that was called off on all ranks, but is still written by a call of one, is given up: its request waits
        no longer, and its blocks are drained.
        """
        sending = set(self._drains)
        self._drains.clear()
        recving: set[str] = set()
        if not self._loads:
            return sending, recving
        if not self._computed:
            # With nothing to compute, the engine would spin through empty steps and starve the loading threads.
            self._wait(lambda: any(job.ended for job in self._loads), self._config.poll_ms)
        self._end_overdue_loads()
        jobs, self._loads = self._loads, []
        for job, (ended, ok, prompt, settled) in zip(jobs, self._agreed(jobs), strict=True):
            if not ended:
                if not ok:  # lost on another rank already: no use in going on here
                    self._call_off(job, REVOKED)
                if settled and not (job.drained or job.given_up):
                    job.given_up = True
                    recving |= {GIVEN_UP_MARK + job.name} | (set() if prompt else {LATE_MARK + job.name})
                self._loads.append(job)
            elif job.drained or job.given_up:
                sending.add(job.name)
            else:
                recving.add(job.name)
                if not ok:
                    recving.add((FAILURE_MARK if prompt else LATE_MARK) + job.name)
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

    # -- loads ---------------------------------------------------------------------------------------------------------

    def _load(self, job: Job) -> str | None:
        assert self._transport is not None  # noqa: S101 - threads start in attach
        if not job.begin():
            return REVOKED
        begin = time.monotonic()
        moved = self._transport.get(job.keys, job.blocks, job.guard)
        seconds = time.monotonic() - begin
        cause = moved.cause
        if cause is None:
            self._metrics.add("loaded_blocks", len(job.keys))
            self._metrics.add("loaded_bytes", moved.moved_bytes)
            self._metrics.observe("load_seconds", seconds)
        else:
            # A dead worker elsewhere is not always told as a timeout.
            slow = cause in (UNAVAILABLE, FULL, ERROR) and seconds * 1000 >= self._config.request_timeout_ms
            job.late = job.late or cause == TIMEOUT or slow
            if not job.ended:
                self._metrics.fail("load_failures", job.called_off or cause)
        logger.debug("request %s: load of %d blocks: %s", job.request_id, len(job.keys), cause or "done")
        return cause

    def _every_load_thread_hangs(self) -> bool:
        hanging = [job for job in self._loads if job.given_up and not job.ended]
        return len(hanging) >= self._config.load_threads

    def _end_overdue_loads(self) -> None:
        """Call off loads past their deadlines; end those that were called off before and are not copied any more."""
        now = time.monotonic()
        for job in self._loads:
            if job.ended:
                continue
            begun = job.begun
            if job.called_off is not None:
                if job.guard.revoke(0):
                    self._fail_load(job, job.called_off)
            elif begun is not None and (now - begun) * 1000 > self._config.load_timeout_ms:
                job.late = True
                self._call_off(job, TIMEOUT)
            elif begun is None and (now - job.queued) * 1000 > self._config.load_queue_timeout_ms:
                self._call_off(job, QUEUED)

    def _call_off(self, job: Job, cause: str) -> None:
        """End a load now if nothing writes to its blocks at this moment; else it ends when that write has ended."""
        if job.ended or job.called_off is not None:
            return
        job.called_off = cause
        begin = time.monotonic()
        free = job.guard.revoke(self._call_off_seconds)
        self._call_off_seconds = max(0.0, self._call_off_seconds - (time.monotonic() - begin))
        if free:
            self._fail_load(job, cause)

    def _fail_load(self, job: Job, cause: str) -> None:
        if job.end(cause):
            self._metrics.fail("load_failures", cause)

    def _agreed(self, jobs: list[Job]) -> list[tuple[bool, bool, bool, bool]]:
        """Return of each load whether it has ended, is not lost, was not late, and goes on no more, on all ranks."""
        with self._condition:
            rows = [(job.ended, job.cause is None) for job in jobs]
            rows += [(not job.late, job.ended or job.called_off is not None) for job in jobs]
        if self._size > 1:
            rows = self._agree(rows)
        return [(*state, *more) for state, more in zip(rows[: len(jobs)], rows[len(jobs) :], strict=True)]

    # -- saves ---------------------------------------------------------------------------------------------------------

    def _queue_saves(self, plan: StepPlan, fence: Callable[[], None] | None) -> None:
        for spec in plan.saves:
            if fence is None:  # nothing would keep the copy behind the kernels that write the blocks
                self._metrics.fail("save_failures", UNAVAILABLE, len(spec.blocks))
            elif len(self._saves) >= _QUEUED_SAVES:
                self._metrics.fail("save_failures", QUEUED, len(spec.blocks))
            else:
                keys = self._keys(plan.namespace, spec)
                job = Job(spec, keys, self._condition, fence, held=not plan.sync_saves)
                self._saves.append(job)
                self._save_queue.put(job)

    def _save(self, job: Job) -> str | None:
        if not job.begin():
            return REVOKED
        self._saving = job
        try:
            return self._publish(job)
        finally:
            self._saving = None

    def _publish(self, job: Job) -> str | None:
        assert self._transport is not None  # noqa: S101 - threads start in attach
        assert job.fence is not None  # noqa: S101 - saves are made with one
        self._discard()
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
        keys = [job.keys[i] for i in missing]
        moved = self._transport.put(keys, [job.blocks[i] for i in missing], job.guard)
        if job.guard.abandoned:
            self._doubtful.update(dict.fromkeys(keys))
            self._discard()
            return TIMEOUT
        saved = moved.causes.count(None)
        self._remember(job.keys)
        self._metrics.add("saved_blocks", saved)
        self._metrics.add("saved_bytes", moved.moved_bytes)
        self._metrics.observe("save_seconds", time.monotonic() - begin)
        logger.debug("request %s: %d of %d blocks saved", job.request_id, saved, len(missing))
        return None if moved.cause is None else self._unsaved(job, moved.cause, len(missing) - saved)

    def _discard(self) -> None:
        """Delete what may hold another request's bytes; tried again before each save until that is done."""
        if not self._doubtful:
            return
        assert self._transport is not None  # noqa: S101 - threads start in attach
        cause = self._transport.discard(list(self._doubtful))
        if cause is None:
            self._doubtful.clear()
        else:
            logger.warning("%d doubtful blocks are not deleted yet: %s", len(self._doubtful), cause)

    def _remember(self, keys: list[str]) -> None:
        """Keep the names of the blocks written last."""
        for key in keys:
            self._published[key] = None
            self._published.move_to_end(key)
        while len(self._published) > _PUBLISHED_KEYS:
            self._published.popitem(last=False)

    def _unsaved(self, job: Job, cause: str, count: int) -> str:
        if not job.ended:
            self._metrics.fail("save_failures", cause, count)
        if cause != UNAVAILABLE:
            logger.debug("request %s: %d blocks not saved: %s", job.request_id, count, cause)
        return cause

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
        if readers and not self._wait_for_saves("blocks", readers, self._config.hazard_timeout_ms):
            self._take_back([job for job in readers if not job.ended])
        self._saves = [job for job in self._saves if not job.ended]

    def _take_back(self, jobs: list[Job]) -> None:
        """Call saves off. Returns when no byte of their blocks is read any more, or the call that does is past its end.

        Most copies end within a millisecond. A call that was submitted to an NPU cannot be taken back, but has a
        timeout of its own. If it does not keep to it, its blocks are given away all the same, and what it may still
        publish is deleted as soon as it has returned: better than an engine that stands still for ever.
        """
        for job in jobs:  # all of them first: the saving thread must not take one up while another is waited for
            job.called_off = REVOKED
            job.guard.revoke(0)
        deadline = time.monotonic() + self._config.request_timeout_ms / 1000
        for job in jobs:
            cause = REVOKED
            if not job.guard.revoke(max(0.0, deadline - time.monotonic())) and job.guard.abandon():
                cause = TIMEOUT
                logger.error(
                    "request %s: a save of %d blocks is past its timeout and given up", job.request_id, len(job.keys)
                )
            if job.end(cause):
                self._metrics.fail("save_failures", cause, len(job.keys))

    def _wait_for_saves(self, kind: str, jobs: list[Job], milliseconds: int) -> bool:
        """Wait until saves have ended; not again while the saving thread is at what such a wait ran out on."""

        def ended() -> bool:
            return all(job.ended for job in jobs)

        hanging = self._hanging.get(kind)
        if hanging is not None and hanging is self._saving:
            return ended()
        if self._wait(ended, milliseconds):
            return True
        self._hanging[kind] = self._saving
        return False

    # -- inner workings ------------------------------------------------------------------------------------------------

    def _keys(self, namespace: bytes, spec: LoadSpec | SaveSpec) -> list[str]:
        return [block_key(namespace, self._shard, digest) for digest in spec.digests]

    def _spawn(self, name: str, jobs: queue.SimpleQueue[Job | None], work: Callable[[Job], str | None]) -> None:
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

    def _await_release(self, job: Job) -> None:
        if job.held:
            self._wait(lambda: not job.held, _HOLD_MILLISECONDS)

    def _wait(self, ready: Callable[[], bool], milliseconds: int) -> bool:
        with self._condition:
            return self._condition.wait_for(ready, milliseconds / 1000)
