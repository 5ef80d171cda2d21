"""What naming a prompt's blocks costs per token, from 1K to 128K tokens."""

from __future__ import annotations

import hashlib
import random
import time
from array import array
from collections.abc import Callable

from vllm_ascend.distributed.yuanrong.keys import BlockChain, block_key

from workshop.bench.figures_of_a_run import Figure, Goal
from workshop.bench.statistics import estimate, measure, paired_ratio

LENGTHS = (1024, 4096, 16384, 65536, 131072)
BLOCK_SIZES = (16, 128)
LONGEST_MS = Goal(50, at_least=False)
#: Per-token cost of the longest prompt over that of the shortest; 1 is exactly linear, timer noise needs some room.
LINEAR = Goal(1.25, at_least=False)
_NAMESPACE = hashlib.sha256(b"benchmark").digest()
_VOCABULARY = 150_000


def figures(rounds: int) -> list[Figure]:
    """Measure hashing with the making of the keys' text, each prompt once like a new request's."""
    draw = random.Random(1)  # noqa: S311 - token ids, not secrets
    tokens = [draw.randrange(_VOCABULARY) for _ in range(max(LENGTHS))]
    results: list[Figure] = []
    for size in BLOCK_SIZES:
        prompts = {length: tokens[:length] for length in LENGTHS}
        arms = {str(length): _naming(prompt, size) for length, prompt in prompts.items()}
        arms["sha256"] = _plain_sha256(tokens)
        taken = measure(arms, rounds)
        for length in LENGTHS:
            per_token = estimate([seconds / length for seconds in taken[str(length)]])
            point = f"{length} tokens, bs {size}"
            results.append(Figure("key cost per token", "length", point, per_token.scaled(1e9), "ns"))
        longest, shortest = LENGTHS[-1], LENGTHS[0]
        point = f"{longest} tokens, bs {size}"
        goal = LONGEST_MS if size == 128 else None
        results.append(
            Figure("keys of a whole prompt", "length", point, estimate(taken[str(longest)]).scaled(1e3), "ms", goal)
        )
        ratio = paired_ratio(taken[str(longest)], taken[str(shortest)]).scaled(shortest / longest)
        results.append(Figure(f"cost per token, {longest} / {shortest}", "length", point, ratio, goal=LINEAR))
        plain = paired_ratio(taken[str(longest)], taken["sha256"])
        results.append(Figure("keys / one SHA-256 of the bytes", "length", point, plain))
    return results


def _naming(tokens: list[int], block_size: int) -> Callable[[int], float]:
    repeats = max(1, 16384 // len(tokens))  # a short prompt alone is near the timer's resolution

    def arm(_: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            for digest in BlockChain(_NAMESPACE, block_size).extend(tokens):
                block_key(_NAMESPACE, "0of1", digest)
        return (time.perf_counter() - begin) / repeats

    return arm


def _plain_sha256(tokens: list[int]) -> Callable[[int], float]:
    def arm(_: int) -> float:
        begin = time.perf_counter()
        hashlib.sha256(array("q", tokens)).digest()
        return time.perf_counter() - begin

    return arm
