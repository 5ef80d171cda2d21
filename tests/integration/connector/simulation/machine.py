"""An engine of a simulation: vLLM's scheduler, the connector's threads and transports, memory that proves itself."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import vllm_ascend.distributed.yuanrong.connector as connector_module
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT
from vllm_ascend.distributed.yuanrong import identity, worker
from vllm_ascend.distributed.yuanrong.config import ConnectorConfig
from vllm_ascend.distributed.yuanrong.keys import block_key
from vllm_ascend.distributed.yuanrong.layout import KVLayout
from vllm_ascend.distributed.yuanrong.transport.breaker import BreakingTransport

from tests.integration.connector.engine import Counting, Engine, Setup
from tests.integration.connector.simulation.budgets import Budgets, LookupBudget
from tests.integration.connector.simulation.clock import SimulatedThread
from tests.integration.connector.simulation.connections import connected
from tests.integration.connector.simulation.device import Device
from tests.integration.connector.simulation.oracle import (
    MASK,
    VOCABULARY,
    Item,
    block_bytes,
    entries,
    reference,
)
from tests.integration.connector.simulation.world import World
from workshop.vllm_objects import blocks_of, items_of, make_request, model_output, with_transfers


@dataclass
class _Asked:
    """A request as its client knows it."""

    prompt: list[int]
    items: list[Item]
    count: int
    adapter: int
    weights: int
    answer: list[int] = field(default_factory=list)


@dataclass
class _State:
    """What the model runner keeps of a request: it learns nothing but what the scheduler's output says."""

    tokens: list[int]
    items: list[Item]
    blocks: list[int]
    computed: int
    root: int = 0
    values: list[int] = field(default_factory=list)


class Machine(Engine):
    """One engine.

    Args:
        setup: What it is made of.
        world: The DataSystem that it shares.
        folder: Of the model.
        kernels: Returns how many seconds the next forward pass takes.
    """

    def __init__(self, setup: Setup, world: World, folder: Path, kernels: Callable[[], float]) -> None:
        self.world, self.simulation, self.kernels = world, world.simulation, kernels
        self.device = Device(self.simulation)
        self.asked: dict[str, _Asked] = {}
        self.states: dict[str, _State] = {}
        self.adapters: dict[int, int] = {}  # number -> content that was loaded under it
        self.weights = 0
        self._savers: list[SimulatedThread | None] = []
        self._budgets: list[Budgets] = []
        super().__init__(setup, {}, folder, world.rng)
        self.side = self.scheduler.connector._scheduler
        self.side._clock = self.simulation.monotonic
        self._watch_claims()

    # -- what happens to it --------------------------------------------------------------------------------------------

    def ask(self, rid: str, prompt: list[int], count: int, items: list[Item], lora: Any = None, **more: Any) -> None:
        """Let a client ask; no other request of this id may be live."""
        number = 0 if lora is None else lora.lora_int_id
        self.asked[rid] = _Asked(prompt, items, count, self.adapters.get(number, 0), self.weights)
        request = make_request(rid, list(prompt), items, count, self.setup.block_size, lora_request=lora, **more)
        self.scheduler.add_request(request)

    def leave(self, rid: str) -> None:
        """Let a client go away."""
        self.abort(rid)
        self.asked.pop(rid, None)

    def idle(self) -> bool:
        """Whether no request runs; some may be loading, or have loaded and wait for their remaining blocks."""
        return not self.scheduler.running

    def replace_weights(self, weights: int) -> None:
        """Replace the weights in place, and say so in the way that such programs do, while it is idle."""
        self.weights = weights
        done = self.scheduler.reset_prefix_cache()
        assert done or self.scheduler.requests, "an engine without requests refuses to be reset"
        if not done:  # blocks are being loaded; vLLM leaves it to the operator to try again, with what is cached
            pool = self.scheduler.kv_cache_manager.block_pool
            for block in pool.blocks:
                pool._maybe_evict_cached_block(block)

    def step(self) -> None:
        """One turn of the engine's loop."""
        self.steps += 1
        output = self._lookups.step(self._schedule)
        plan = output.kv_connector_metadata.plan
        self._count("drained", len(plan.drains))
        self._each("start", lambda worker: worker.start(plan))
        result = EMPTY_MODEL_RUNNER_OUTPUT
        for rid in output.finished_req_ids:
            self.states.pop(rid, None)
        if output.total_num_scheduled_tokens:
            result = self._launch(output)
            self._expect(plan)
            if self.setup.kind == "host":
                self.device.finish()
            self._each("save", lambda worker: worker.save(plan))
        reports = self._collected()
        self.device.finish()
        self._update(result, output, reports)
        self.simulation.check()

    def busy(self) -> bool:
        """Whether its loop would go on."""
        return bool(self.scheduler.has_requests())

    def finish(self, limit: int = 3000) -> None:
        """Run until nothing is left, and prove that nothing is."""
        while self.scheduler.has_requests() or self.scheduler.requests or self._blocks_are_held():
            assert limit > 0, f"stalled with {[(r, q.status.name) for r, q in self.scheduler.requests.items()]}"
            limit -= 1
            self.step()
            self.simulation.sleep(0.01)
        self.simulation.sleep(200)  # longer than any call
        self.step()
        self.simulation.sleep(0.2)
        self.simulation.check()
        self.check_nothing_left()
        assert not self.asked, f"never answered: {list(self.asked)}"

    # -- inner workings ------------------------------------------------------------------------------------------------

    def _schedule(self) -> Any:
        output = self.scheduler.schedule()
        both = [each.request_id for each in self.scheduler.waiting if each.request_id in output.num_scheduled_tokens]
        assert not both, f"scheduled and preempted in one step: {both}"
        return output

    def _blocks_are_held(self) -> bool:
        return bool(self.scheduler._held or self.scheduler._given_up)

    def _patch(self, store: dict[str, bytes]) -> None:
        def connect(connector: Any, kind: str, layout: Any, timeout: int) -> Any:
            return self._connected(connector._config, layout, timeout)

        def namespace_of(vllm_config: Any, config: Any, device_type: str) -> Any:
            return identity.namespace_of(vllm_config, config, "npu" if self.setup.kind == "npu" else "cpu")

        connector_module.YuanRongConnector._connected = connect
        connector_module.namespace_of = namespace_of

    def _connected(self, config: ConnectorConfig, layout: KVLayout | None, timeout: int) -> BreakingTransport:
        keys = (self.setup.longest // self.setup.block_size + 1) * self.setup.ranks
        if layout is None:
            self._lookups = LookupBudget(self.simulation, config, -(-keys // self.setup.keys_per_call))
        count = self._lookups.count if layout is None else lambda _: None
        return connected(self.setup.kind, self.world, self.device, config, layout, timeout, count)

    def _worker(self, rank: int, store: dict[str, bytes]) -> Any:
        config = ConnectorConfig.from_extra(self.config.kv_transfer_config.kv_connector_extra_config, self.setup.role)
        made = worker.WorkerSide(
            config, rank, self.setup.ranks, shared=False, metrics=Counting(self.counts), agree=self._agree
        )
        load, save = made._load, made._save

        def watched(work: Callable[[Any], Any], job: Any) -> Any:
            self.simulation.current.job = job
            job.taken_up = self.simulation.now
            try:
                return work(job)
            finally:
                self.simulation.current.job = None
                job.took = self.simulation.now - job.taken_up

        made._load, made._save = partial(watched, load), partial(watched, save)
        layout = KVLayout.from_caches({"layer.0": self.memories[rank]})
        made.attach(layout, self._connected(config, layout, config.request_timeout_ms))
        savers = [thread._thread for thread in made._threads if thread.name == "yuanrong-save"]
        self._savers.append(savers[0] if savers else None)
        self._budgets.append(Budgets(self.simulation, config, self.setup.kind == "npu"))
        self._jobs_of(made)
        return made

    def _jobs_of(self, made: Any) -> None:
        """Remember every load that was handed over, by its name."""
        self.loads: dict[str, list[Any]] = getattr(self, "loads", {})
        put = made._load_queue.put

        def remembered(job: Any) -> None:
            if job is not None:
                self.loads.setdefault(job.name, []).append(job)
            put(job)

        made._load_queue.put = remembered

    def _watch_claims(self) -> None:
        """Hold what the scheduler's half believes against the truth."""
        lookups, side = self.side._lookups, self.side
        ask_all, avoid = lookups.ask_all, lookups.avoid

        def asked(chains: Any) -> Any:
            answers = ask_all(chains)
            for digests, answer in zip(chains, answers, strict=True):
                there = [
                    any(self.world.readable(block_key(side._namespace, shard, digest)) for shard in lookups._shards)
                    for digest in digests
                ]
                if answer.absent_from is not None and any(there[answer.absent_from :]):
                    self.simulation.fail("a lookup calls absent what is there")
                if not all(there[: answer.present]):
                    self.simulation.fail("a lookup finds what is not there")
            return answers

        def avoided(digests: Any) -> None:
            name = next(each.load_id for each in side._tracked.values() if each.loading is digests)
            if not any(self._was_late(job) for job in self.loads.get(name, [])):
                self.simulation.fail("blocks are left alone, though no call for them was late")
            avoid(digests)

        lookups.ask_all, lookups.avoid = asked, avoided

    def _was_late(self, job: Any) -> bool:
        """Whether the DataSystem is to blame for the end of a load."""
        config, now = self.side._config, self.simulation.now
        if hasattr(job, "was_late") or getattr(job, "took", 0) * 1000 >= config.request_timeout_ms:
            return True
        return bool((now - getattr(job, "taken_up", now)) * 1000 >= config.load_timeout_ms)

    def _each(self, kind: str, work: Callable[[Any], Any]) -> None:
        for budget, saver, each in zip(self._budgets, self._savers, self.workers, strict=True):
            budget.timed(kind, saver, partial(work, each))

    def _collected(self) -> list[tuple[set[str], set[str]]]:
        if self.setup.ranks == 1:
            return [self._budgets[0].timed("collect", self._savers[0], self.workers[0].collect)]
        self._rows: dict[str, list[tuple[bool, bool]]] = {}
        reports: dict[int, tuple[set[str], set[str]]] = {}

        def collect(rank: int) -> None:
            reports[rank] = self.workers[rank].collect()

        ranks = range(self.setup.ranks)
        threads = [self.simulation.spawn(f"rank {rank}", partial(collect, rank)) for rank in ranks]
        self.simulation.wait(lambda: all(thread.ended for thread in threads))
        self.simulation.check()
        assert all(report == reports[0] for report in reports.values()), "ranks report differently"
        return [reports[rank] for rank in ranks]

    def _agree(self, states: list[tuple[bool, bool]]) -> list[tuple[bool, bool]]:
        rows = self._rows
        rows[self.simulation.current.name] = list(states)
        self.simulation.wait(lambda: len(rows) == self.setup.ranks)
        assert len({len(row) for row in rows.values()}) == 1, "ranks disagree on what is outstanding"
        return [
            (all(row[i][0] for row in rows.values()), all(row[i][1] for row in rows.values()))
            for i in range(len(states))
        ]

    def _update(self, result: Any, output: Any, reports: list[tuple[set[str], set[str]]]) -> None:
        outputs = [with_transfers(result, sending, recving) for sending, recving in reports]
        for eco in self.scheduler.update_from_output(output, self.aggregator.aggregate(outputs)).values():
            for out in eco.outputs:
                asked = self.asked[out.request_id]
                asked.answer += out.new_token_ids
                if out.finish_reason is not None:
                    del self.asked[out.request_id]
                    if asked.weights == self.weights:
                        root = self._root(asked.adapter)
                        right = reference(asked.prompt, asked.items, asked.count, root)
                        assert asked.answer == right, f"{out.request_id}: wrong answer"
                    assert len(asked.answer) == asked.count

    def _root(self, adapter: int) -> int:
        return 1 + self.weights * 1000003 + adapter * 7919

    def _launch(self, output: Any) -> Any:
        """Begin the forward pass, and say what it will answer."""
        for new in output.scheduled_new_reqs:
            assert items_of(new) == self.asked[new.req_id].items
            self.states[new.req_id] = _State(
                list(new.prompt_token_ids), items_of(new), list(new.block_ids[0]), new.num_computed_tokens
            )
        cached = output.scheduled_cached_reqs
        self._count("resumed", sum(cached.resumed_from_preemption))
        for i, rid in enumerate(cached.req_ids):
            state = self.states[rid]
            state.computed = cached.num_computed_tokens[i]
            fresh = blocks_of(cached.new_block_ids[i])
            state.blocks = fresh if cached.resumed_from_preemption[i] else state.blocks + fresh
        work: list[tuple[str, list[int], list[int], int]] = []
        sampled: list[list[int]] = []
        for rid, count in output.num_scheduled_tokens.items():
            state = self.states[rid]
            end = state.computed + count
            assert end <= len(state.tokens), "more tokens scheduled than exist"
            root = self._root(self.asked[rid].adapter)
            known = state.values[:end] if state.root == root else []
            state.values, state.root = entries(state.tokens[:end], state.items, root, known), root
            work.append((rid, state.values, list(state.blocks), state.computed))
            token = [state.values[-1] % VOCABULARY] if end == len(state.tokens) else []
            state.tokens += token
            sampled.append(token)

        def kernel() -> None:
            for rank in range(self.setup.ranks):
                for rid, values, blocks, computed in work:
                    self._compute(rid, values, blocks, computed, rank)

        self.device.launch(self.kernels(), kernel)
        return model_output(list(output.num_scheduled_tokens), sampled)

    def _compute(self, rid: str, values: list[int], blocks: list[int], computed: int, rank: int) -> None:
        size = self.setup.block_size
        words = ctypes.cast(self.memories[rank].data_ptr(), ctypes.POINTER(ctypes.c_uint64))
        other = self.setup.blocks * size
        first, second = (other, 0) if self.setup.form == "nz" else (0, other)
        seen = max(0, computed - self.setup.window + 1) if self.setup.window else 0
        for position in range(seen, len(values)):
            value = (values[position] + rank) & MASK  # ranks hold different heads
            block = blocks[position // size]
            key = block * size + position % size
            if position >= computed:
                words[first + key], words[second + key] = value, value ^ MASK
            elif words[first + key] != value or words[second + key] != value ^ MASK or not block:
                self.simulation.fail(f"{rid}: wrong KV at {position} of {computed} on rank {rank}")
                return

    def _expect(self, plan: Any) -> None:
        """Tell the world what the keys of this step's saves stand for."""
        size = self.setup.block_size
        for spec in plan.saves:
            state = self.states[spec.request_id]
            digests = self.side._tracked[spec.request_id].chain.digests
            for digest in spec.digests:
                start = digests.index(digest) * size
                for rank, each in enumerate(self.workers):
                    content = block_bytes(state.values[start : start + size], rank, self.setup.form == "nz")
                    self.world.expect(block_key(plan.namespace, each._shard, digest), content)
