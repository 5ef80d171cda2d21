"""What the connector adds to a scheduler's step: vLLM's own scheduler on the same requests, without it and with it.

No model runs: each step's tokens are made up, and a load has ended when its step has. The lookups ask a real DataSystem
worker. Three arms serve the same requests in each round: vLLM's scheduler alone, with the connector and nothing to be
found, and with the connector and every prompt to be found.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from vllm.config import CacheConfig, DeviceConfig, KVTransferConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec
from vllm.v1.structured_output import StructuredOutputManager
from vllm_ascend.distributed.yuanrong.config import ConnectorConfig
from vllm_ascend.distributed.yuanrong.connector import namespace_of
from vllm_ascend.distributed.yuanrong.keys import BlockChain, block_key
from vllm_ascend.distributed.yuanrong.recovery import RecoveringScheduler
from yr.datasystem.kv_client import KVClient
from yr.datasystem.object_client import WriteMode

from workshop.bench.figures_of_a_run import Figure
from workshop.bench.statistics import estimate, measure, paired_difference, paired_ratio
from workshop.vllm_objects import attention_spec, make_request, model_output, with_transfers
from yrpd.errors import VerificationError

_VOCABULARY = 1000
_MAX_LENGTH = 16384
_STEPS_PER_REQUEST = 256  # several times what the longest stream takes


@dataclass(frozen=True)
class Stream:
    """Requests that arrive one after the other.

    Attributes:
        prompt: Tokens of a prompt.
        answer: Tokens of an answer.
        block_size: Tokens per KV block.
        requests: How many.
        every: Steps between arrivals.
        budget: Tokens per step.
    """

    prompt: int
    answer: int
    block_size: int
    requests: int = 32
    every: int = 4
    budget: int = 2048


STREAMS = (Stream(1024, 64, 16), Stream(1024, 64, 128), Stream(8192, 64, 128))


@dataclass
class _Run:
    """What serving a stream took: seconds of each step, and which steps took a new request in."""

    seconds: list[float] = field(default_factory=list)
    admitting: list[bool] = field(default_factory=list)
    loaded: int = 0


def figures(address: str, rounds: int, folder: Path) -> list[Figure]:
    """Measure all streams.

    Args:
        address: The DataSystem worker.
        rounds: Rounds of each stream.
        folder: Empty folder for the configuration of a model that is never loaded.
    """
    (folder / "config.json").write_text(json.dumps(_MODEL), encoding="utf-8")
    return [figure for stream in STREAMS for figure in _figures(stream, address, rounds, folder)]


def _figures(stream: Stream, address: str, rounds: int, folder: Path) -> list[Figure]:
    bench = _Bench(stream, address, folder)
    kept: dict[str, list[_Run]] = {"plain": [], "miss": [], "hit": []}

    def arm(name: str) -> Callable[[int], float]:
        def serve(number: int) -> float:
            run = bench.serve(name, number)
            kept[name].append(run)
            return sum(run.seconds)

        return serve

    totals = measure({name: arm(name) for name in kept}, rounds)
    counted = {name: runs[-rounds:] for name, runs in kept.items()}
    point = f"{stream.prompt} tokens, bs {stream.block_size}"
    steps = {name: [len(run.seconds) for run in runs] for name, runs in counted.items()}
    results = []
    for name, title in (("miss", "without hits"), ("hit", "with hits")):
        mean = {n: [t / s for t, s in zip(totals[n], steps[n], strict=True)] for n in ("plain", name)}
        added = paired_difference(mean[name], mean["plain"])
        per_request = paired_difference(totals[name], totals["plain"]).scaled(1 / stream.requests)
        results += [
            Figure(f"step {title} / plain, mean", "length", point, paired_ratio(mean[name], mean["plain"])),
            Figure(f"added per step {title}, mean", "length", point, added.scaled(1e6), "us"),
            Figure(f"added per request {title}", "length", point, per_request.scaled(1e6), "us"),
        ]
    for admitting, title in ((False, "that decodes"), (True, "that admits")):
        plain, miss = (
            [median(s for s, a in zip(r.seconds, r.admitting, strict=True) if a is admitting) for r in counted[name]]
            for name in ("plain", "miss")
        )
        added = paired_difference(miss, plain)
        results.append(Figure(f"added to a step {title}", "length", point, added.scaled(1e6), "us"))
    whole = estimate([1e6 * value for value in mean_of(counted["plain"])])
    results.append(Figure("plain scheduler's step, mean", "length", point, whole, "us"))
    return results


def mean_of(runs: list[_Run]) -> list[float]:
    """Return each run's mean seconds per step."""
    return [sum(run.seconds) / len(run.seconds) for run in runs]


class _Bench:
    """Three schedulers that live through all rounds, as an engine's does; prompts differ from round to round."""

    def __init__(self, stream: Stream, address: str, folder: Path) -> None:
        self.stream = stream
        model = ModelConfig(
            model=str(folder), tokenizer=str(folder), skip_tokenizer_init=True, dtype="bfloat16",
            max_model_len=_MAX_LENGTH,
        )  # fmt: skip
        host, port = address.rsplit(":", 1)
        self.client = KVClient(host=host, port=int(port))
        self.client.init()
        self.configs = {name: _vllm_config(stream, model, address, name) for name in ("plain", "miss", "hit")}
        self.schedulers = {name: _scheduler(stream, config) for name, config in self.configs.items()}

    def serve(self, name: str, number: int) -> _Run:
        """Serve one round's requests with one scheduler."""
        draw = random.Random(number)  # noqa: S311 - token ids, not secrets
        prompts = [
            [draw.randrange(_VOCABULARY) for _ in range(self.stream.prompt)] for _ in range(self.stream.requests)
        ]
        if name == "hit":
            self._publish(prompts)
        requests = [self._request(f"{number}-{index}", prompt) for index, prompt in enumerate(prompts)]
        run = _drive(self.schedulers[name], requests, self.stream.every)
        expected = (self.stream.prompt - 1) // self.stream.block_size * self.stream.requests if name == "hit" else 0
        if run.loaded != expected:
            raise VerificationError(f"The benchmark's arm {name!r} loaded {run.loaded} blocks, not {expected}.")
        return run

    def _publish(self, prompts: list[list[int]]) -> None:
        """Put something under each block's name: the scheduler only asks whether it is there."""
        config = self.configs["hit"]
        settings = ConnectorConfig.from_extra(config.kv_transfer_config.kv_connector_extra_config, "kv_both", {})
        namespace = namespace_of(config, settings, "cpu").digest()
        for prompt in prompts:
            keys = [
                block_key(namespace, "0of1", digest)
                for digest in BlockChain(namespace, self.stream.block_size).extend(prompt)
            ]
            buffers = self.client.mcreate(keys, [64] * len(keys), WriteMode.NONE_L2_CACHE_EVICT, 60)
            self.client.mset_buffer(buffers)

    def _request(self, name: str, prompt: list[int]) -> Any:
        return make_request(name, prompt, (), self.stream.answer, self.stream.block_size)


def _drive(scheduler: Any, requests: list[Any], every: int) -> _Run:
    """Serve requests to their end; only the scheduler's own calls are timed."""
    run, waiting, step = _Run(), list(reversed(requests)), 0
    while waiting or scheduler.has_requests():
        arriving = [waiting.pop()] if waiting and step % every == 0 else []
        begin = time.perf_counter()
        for request in arriving:
            scheduler.add_request(request)
        output = scheduler.schedule()
        pause = time.perf_counter()
        result, loaded = _pretend(scheduler, output)
        resume = time.perf_counter()
        scheduler.update_from_output(output, result)
        run.seconds.append(time.perf_counter() - resume + pause - begin)
        run.admitting.append(bool(arriving))
        run.loaded += loaded
        step += 1
        if step > _STEPS_PER_REQUEST * len(requests):
            raise VerificationError(
                f"{len(scheduler.requests)} requests wait for ever: the loads' reports are not heard."
            )
    return run


def _pretend(scheduler: Any, output: Any) -> tuple[Any, int]:
    """Return what a model runner would, with this step's loads ended; and the number of their blocks."""
    ids = list(output.num_scheduled_tokens)
    sampled = []
    for rid in ids:
        request = scheduler.requests[rid]  # its computed tokens count this step's already
        sampled.append([7] if request.num_computed_tokens >= request.num_tokens else [])
    plan = getattr(output.kv_connector_metadata, "plan", None)
    loads = plan.loads if plan is not None else []
    result = with_transfers(model_output(ids, sampled), set(), {spec.name for spec in loads})
    return result, sum(len(spec.blocks) for spec in loads)


def _scheduler(stream: Stream, config: Any) -> Any:
    spec = attention_spec(stream.block_size, 1, 64, torch.bfloat16)
    cache = KVCacheConfig(config.cache_config.num_gpu_blocks, [], [KVCacheGroupSpec(["layer.0"], spec)])
    kind = Scheduler if config.kv_transfer_config is None else RecoveringScheduler
    return kind(config, cache, StructuredOutputManager(config), log_stats=False)


def _vllm_config(stream: Stream, model: Any, address: str, name: str) -> Any:
    transfer = KVTransferConfig(
        kv_connector="YuanRongConnector",
        kv_connector_module_path="vllm_ascend.distributed.yuanrong",
        kv_role="kv_both",
        kv_connector_extra_config={"worker_address": address, "tag": f"{name}-{stream.prompt}"},
    )
    config = VllmConfig(
        model_config=model,
        scheduler_config=SchedulerConfig(
            max_num_seqs=stream.requests,
            max_num_batched_tokens=stream.budget,
            max_model_len=_MAX_LENGTH,
            enable_chunked_prefill=True,
            scheduler_cls=Scheduler if name == "plain" else RecoveringScheduler,
        ),
        cache_config=CacheConfig(block_size=16, enable_prefix_caching=True),
        device_config=DeviceConfig("cpu"),
        kv_transfer_config=None if name == "plain" else transfer,
    )
    config.scheduler_config.chunked_prefill_enabled = True
    config.cache_config.block_size = stream.block_size
    config.cache_config.num_gpu_blocks = 64 + stream.requests * (
        1 + (stream.prompt + stream.answer) // stream.block_size
    )
    return config


_MODEL = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 1024, "hidden_size": 64,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": _MAX_LENGTH, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}  # fmt: skip
