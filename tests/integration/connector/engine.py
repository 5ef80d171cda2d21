# ruff: noqa: D102 - stand-ins are named and shaped like what they stand in for
"""A vLLM engine without a model: the real schedulers and the real connector, over KV memory that proves itself.

Before a request computes a token, every KV entry before it is compared with what it must be (``simulation/oracle.py``);
the next token is derived from the last entry. So a block with wrong content shows at once, and an answer is right
exactly when it equals ``reference``.

Transfers are carried out by the test, one by one, at moments it chooses: nothing depends on the clock.
"""

from __future__ import annotations

import ctypes
import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vllm_ascend.distributed.yuanrong.connector as connector_module
from vllm.config import CacheConfig, DeviceConfig, KVTransferConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.distributed.kv_transfer.kv_connector.utils import KVOutputAggregator
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT
from vllm.v1.request import RequestStatus
from vllm.v1.structured_output import StructuredOutputManager
from vllm_ascend.distributed.yuanrong.config import ConnectorConfig
from vllm_ascend.distributed.yuanrong.keys import BlockChain, MediaItem, block_key
from vllm_ascend.distributed.yuanrong.layout import KVLayout
from vllm_ascend.distributed.yuanrong.metrics import Metrics
from vllm_ascend.distributed.yuanrong.recovery import RecoveringAscendScheduler, RecoveringScheduler
from vllm_ascend.distributed.yuanrong.worker import WorkerSide

from tests.integration.connector.simulation.oracle import MASK, VOCABULARY, Item, block_bytes, entries, reference
from tests.unit.connector.fakes import FakeTensor, MemoryTransport
from workshop.vllm_objects import (
    attention_spec,
    blocks_of,
    items_of,
    make_request,
    model_output,
    window_spec,
    with_transfers,
)

__all__ = ["MASK", "VOCABULARY", "Counting", "Engine", "Setup", "reference"]


_MODEL = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 64, "hidden_size": 64,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
}  # fmt: skip

_model_configs: dict[str, ModelConfig] = {}


def model_config(folder: Path) -> ModelConfig:
    """Return the configuration of a model that is never loaded."""
    if "model" not in _model_configs:
        (folder / "config.json").write_text(json.dumps(_MODEL))
        _model_configs["model"] = ModelConfig(
            model=str(folder), tokenizer=str(folder), skip_tokenizer_init=True, dtype="bfloat16", max_model_len=256
        )
    return _model_configs["model"]


@dataclass
class Setup:
    """What an engine is made of."""

    ascend: bool = False
    chunked: bool = True
    role: str = "kv_both"
    blocks: int = 24
    block_size: int = 4
    budget: int = 32
    seqs: int = 4
    ranks: int = 1
    caching: bool = True
    policy: str = "fcfs"
    window: int = 0  # of the attention; 0: none
    kind: str = "host"  # of the simulation's DataSystem client: host or npu
    form: str = ""  # "nz": keys and values the other way round in each block, as another inner form
    keys_per_call: int = 8000
    longest: int = 64  # prompt
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Running:
    """What the model runner keeps of a request: it learns nothing but what the scheduler's output says."""

    tokens: list[int]
    items: list[Item]
    blocks: list[int]
    computed: int


class Engine:
    """One engine of one role, sharing ``stores`` (one dictionary per rank's keys; keys differ by rank anyway)."""

    def __init__(self, setup: Setup, store: dict[str, bytes], folder: Path, rng: random.Random) -> None:
        self.setup, self.rng, self.store = setup, rng, store
        self.speed = 0.5  # chance of a queued transfer to be carried out while the engine looks
        self.counts: dict[str, int] = {}
        self.fault: Callable[[str, str], str | None] = lambda op, key: None
        extra = {
            "worker_address": "127.0.0.1:1",
            "announce": False,
            "lookup_cache_ms": 0,
            "hazard_timeout_ms": 1,
            "poll_ms": 1,
        } | setup.extra
        self.config = self._vllm_config(folder, extra)
        spec = attention_spec(setup.block_size, 1, 1)
        if setup.window:
            spec = window_spec(setup.block_size, 1, 1, setup.window)
        cache = KVCacheConfig(setup.blocks, [], [KVCacheGroupSpec(["layer.0"], spec)])
        self._patch(store)
        kind = RecoveringAscendScheduler if setup.ascend else RecoveringScheduler
        self.scheduler = kind(self.config, cache, StructuredOutputManager(self.config), log_stats=False)
        self.scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=1000)
        self.scheduler.max_num_encoder_input_tokens = 1000
        self.free_at_start = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        self.memories = [FakeTensor((2, setup.blocks, setup.block_size), 8) for _ in range(setup.ranks)]
        self.workers = [self._worker(rank, store) for rank in range(setup.ranks)]
        self.aggregator = KVOutputAggregator(setup.ranks)
        self._watch_stalls()
        self.running: dict[str, _Running] = {}
        self.answers: dict[str, list[int]] = {}
        self.requests: dict[str, tuple[list[int], list[Item], int]] = {}
        self.aborted: set[str] = set()
        self.steps = 0

    # -- what a test does ----------------------------------------------------------------------------------------------

    def add(self, rid: str, prompt: list[int], count: int, items: list[Item] | None = None) -> None:
        items = items or []
        request = make_request(rid, prompt, items, count, self.setup.block_size)
        self.requests[rid] = (prompt, items, count)
        self.answers[rid] = []
        self.scheduler.add_request(request)

    def abort(self, rid: str) -> None:
        self.aborted.add(rid)
        self.scheduler.finish_requests([rid], RequestStatus.FINISHED_ABORTED)

    def live(self) -> list[str]:
        return [rid for rid, r in self.scheduler.requests.items() if not r.is_finished()]

    def step(self) -> None:
        """One turn of the engine's loop."""
        self.steps += 1
        output = self.scheduler.schedule()
        plan = output.kv_connector_metadata.plan
        self._count("drained", len(plan.drains))
        for worker in self.workers:
            worker.start(plan)
        self.pump(0.5 * self.speed)
        result = EMPTY_MODEL_RUNNER_OUTPUT
        for rid in output.finished_req_ids:
            self.running.pop(rid, None)
        if output.total_num_scheduled_tokens:
            result = self._forward(output)
            for worker in self.workers:
                worker.save(plan)
        self._collect(result, output)

    def pump(self, chance: float) -> None:
        """Carry out queued transfers, each with this chance."""
        for worker in self.workers:
            for jobs, work in ((worker._load_queue, worker._load), (worker._save_queue, worker._save)):
                for _ in range(jobs.qsize()):
                    job = jobs.get()
                    assert job is not None
                    if self.rng.random() < chance:
                        job.end(work(job))
                    else:
                        jobs.put(job)

    def finish(self, limit: int = 3000) -> None:
        """Run until nothing is left, and prove that nothing is."""
        while self.scheduler.has_requests() or self.scheduler.requests:
            assert limit > 0, (
                f"stalled with {[(r.request_id, r.status.name) for r in self.scheduler.requests.values()]}"
            )
            limit -= 1
            self.step()
        self.pump(1)
        self.step()
        self.check_nothing_left()
        for rid, (prompt, items, count) in self.requests.items():
            want = reference(prompt, items, count)
            got = self.answers[rid]
            assert got == (want[: len(got)] if rid in self.aborted else want), rid
            self._check_store(prompt + want, items)

    def check_nothing_left(self) -> None:
        """Prove that every block is free and nothing is remembered."""
        pool = self.scheduler.kv_cache_manager.block_pool
        assert pool.get_num_free_blocks() == self.free_at_start
        side = self.scheduler.connector._scheduler
        assert not any((side._tracked, side._loads, side._draining, side._new_drains))
        assert not self.scheduler._failed_kv_loads
        assert not self.scheduler.finished_recving_kv_req_ids
        assert not self.scheduler.running
        assert not self.scheduler.waiting
        for worker in self.workers:
            assert not worker._loads
            assert not worker._drains
            assert not [job for job in worker._saves if not job.ended]
        assert not self.aggregator._recv_remaining_count
        assert not self.aggregator._send_remaining_count

    # -- inner workings ------------------------------------------------------------------------------------------------

    def _vllm_config(self, folder: Path, extra: dict[str, Any]) -> VllmConfig:
        setup = self.setup
        scheduler = SchedulerConfig(
            max_num_seqs=setup.seqs,
            max_num_batched_tokens=setup.budget,
            max_model_len=256 if setup.chunked else setup.budget,
            enable_chunked_prefill=setup.chunked,
            scheduler_cls=RecoveringAscendScheduler if setup.ascend else RecoveringScheduler,
            policy=setup.policy,
        )
        scheduler.chunked_prefill_enabled = setup.chunked
        config = VllmConfig(
            model_config=model_config(folder),
            scheduler_config=scheduler,
            cache_config=CacheConfig(block_size=16, enable_prefix_caching=setup.caching),
            device_config=DeviceConfig("cpu"),
            kv_transfer_config=KVTransferConfig(
                kv_connector="YuanRongConnector",
                kv_connector_module_path="vllm_ascend.distributed.yuanrong",
                kv_role=setup.role,
                kv_connector_extra_config=extra,
            ),
            additional_config={"torchair_graph_config": {"enable_kv_nz": True}} if setup.form == "nz" else {},
        )
        config.scheduler_config.chunked_prefill_enabled = setup.chunked
        config.cache_config.block_size = setup.block_size  # smaller than vLLM's menu
        config.cache_config.num_gpu_blocks = setup.blocks
        config.parallel_config.tensor_parallel_size = setup.ranks
        return config

    def _patch(self, store: dict[str, bytes]) -> None:
        """Give the scheduler's connector a transport over the dictionary."""

        def connected(connector: Any, kind: str, layout: Any, timeout: int) -> MemoryTransport:
            return MemoryTransport(store, layout, lambda op, key: self.fault(op, key))

        connector_module.YuanRongConnector._connected = connected

    def _check_store(self, tokens: list[int], items: list[Item]) -> None:
        """Prove that whatever is stored under this prompt's keys is what they name."""
        namespace = self.scheduler.connector._scheduler._namespace
        size = self.setup.block_size
        chain = BlockChain(namespace, size, [MediaItem(*item) for item in items])
        values = entries(tokens, items)
        for index, digest in enumerate(chain.extend(tokens)):
            block = values[index * size : (index + 1) * size]
            for rank in range(self.setup.ranks):
                stored = self.store.get(block_key(namespace, f"{rank}of{self.setup.ranks}", digest))
                assert stored is None or stored == block_bytes(block, rank), (
                    f"block {index} is stored with wrong content"
                )

    def _count(self, name: str, amount: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + amount

    def _watch_stalls(self) -> None:
        connector = self.scheduler.connector
        discard = connector.load_discarded

        def counted(rid: str) -> None:
            self._count("stalls", 1)
            discard(rid)

        connector.load_discarded = counted

    def _worker(self, rank: int, store: dict[str, bytes]) -> WorkerSide:
        config = ConnectorConfig.from_extra(self.config.kv_transfer_config.kv_connector_extra_config, self.setup.role)
        worker = WorkerSide(
            config, rank, self.setup.ranks, shared=False, metrics=Counting(self.counts), agree=self._agree
        )
        worker._layout = KVLayout.from_caches({"layer.0": self.memories[rank]})
        worker._transport = MemoryTransport(store, worker._layout, lambda op, key: self.fault(op, key))

        def wait(ready: Callable[[], bool], milliseconds: int) -> bool:
            if threading.current_thread() is threading.main_thread():  # ranks in threads must not share the pump
                self.pump(self.speed)
            return ready()

        worker._wait = wait
        return worker

    def _agree(self, states: list[tuple[bool, bool]]) -> list[tuple[bool, bool]]:
        """All-reduce (minimum) over the ranks' threads."""
        slots = self._slots
        slots.states[threading.get_ident()] = states
        slots.barrier.wait()
        rows = list(slots.states.values())
        assert len({len(row) for row in rows}) == 1, "ranks disagree on what is outstanding"
        agreed = [(all(r[i][0] for r in rows), all(r[i][1] for r in rows)) for i in range(len(states))]
        slots.barrier.wait()
        slots.states.clear()
        slots.barrier.wait()
        return agreed

    def _collect(self, result: Any, output: Any) -> None:
        if self.setup.ranks == 1:
            reports = [self.workers[0].collect()]
        else:
            self._slots = _Slots(self.setup.ranks)
            gathered: dict[int, tuple[set[str], set[str]]] = {}

            def run(rank: int) -> None:
                gathered[rank] = self.workers[rank].collect()

            self.pump(self.speed)
            threads = [threading.Thread(target=run, args=(rank,)) for rank in range(self.setup.ranks)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            reports = [gathered[rank] for rank in range(self.setup.ranks)]
            assert all(report == reports[0] for report in reports), "ranks report differently"
        outputs = [with_transfers(result, sending, recving) for sending, recving in reports]
        for eco in self.scheduler.update_from_output(output, self.aggregator.aggregate(outputs)).values():
            for out in eco.outputs:
                self.answers[out.request_id] += out.new_token_ids

    def _forward(self, output: Any) -> Any:
        for new in output.scheduled_new_reqs:
            items = items_of(new)
            assert items == self.requests[new.req_id][1]
            self.running[new.req_id] = _Running(
                list(new.prompt_token_ids), items, list(new.block_ids[0]), new.num_computed_tokens
            )
        cached = output.scheduled_cached_reqs
        self._count("resumed", sum(cached.resumed_from_preemption))
        for i, rid in enumerate(cached.req_ids):
            state = self.running[rid]
            state.computed = cached.num_computed_tokens[i]
            fresh = blocks_of(cached.new_block_ids[i])
            state.blocks = fresh if cached.resumed_from_preemption[i] else state.blocks + fresh
        sampled: list[list[int]] = []
        for rid, count in output.num_scheduled_tokens.items():
            state = self.running[rid]
            end = state.computed + count
            assert end <= len(state.tokens), "more tokens scheduled than exist"
            values = entries(state.tokens[:end], state.items)
            for rank in range(self.setup.ranks):
                self._check_and_write(rid, state, values, rank)
            token = [values[-1] % VOCABULARY] if end == len(state.tokens) else []
            state.tokens += token
            sampled.append(token)
        return model_output(list(output.num_scheduled_tokens), sampled)

    def _check_and_write(self, rid: str, state: _Running, values: list[int], rank: int) -> None:
        size, blocks = self.setup.block_size, self.setup.blocks
        words = ctypes.cast(self.memories[rank].data_ptr(), ctypes.POINTER(ctypes.c_uint64))
        for position, value in enumerate(values):
            value = (value + rank) & MASK  # ranks hold different heads
            key = state.blocks[position // size] * size + position % size
            if position < state.computed:
                assert words[key] == value, f"{rid}: wrong K at {position} of {state.computed} on rank {rank}"
                assert words[key + blocks * size] == value ^ MASK, f"{rid}: wrong V at {position}"
            else:
                words[key], words[key + blocks * size] = value, value ^ MASK


class _Slots:
    def __init__(self, ranks: int) -> None:
        self.states: dict[int, list[tuple[bool, bool]]] = {}
        self.barrier = threading.Barrier(ranks)


class Counting(Metrics):  # type: ignore[misc]
    """Counts in a dictionary, so that a test can show that it was not vacuous."""

    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__()
        self._counts = counts

    def add(self, name: str, amount: float = 1) -> None:
        self._counts[name] = self._counts.get(name, 0) + int(amount)

    def fail(self, name: str, cause: str, amount: float = 1) -> None:
        self.add(f"{name}:{cause}", amount)
