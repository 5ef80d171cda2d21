"""The real schedulers over random interleavings of schedule, chunk, preempt, abort, load, save and fail.

Each interleaving ends with every answer right, every KV block free and no state left; see ``engine.py`` for the oracle.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from tests.integration.connector.engine import VOCABULARY, Engine, Setup  # noqa: E402

SCALE = int(os.environ.get("YUANRONG_INTERLEAVINGS", "1500"))
PLACEHOLDER = VOCABULARY + 1
CAT, DOG = "ca" * 32, "d0" * 32  # as long as vLLM's own hashes
CAUSES = ["missing", "corrupt", "timeout", "unavailable", "error"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def random_prompt(rng: random.Random, stems: list[list[int]], longest: int) -> list[int]:
    """Return a prompt that shares its beginning with others."""
    length = rng.choice([1, 3, 4, 5, 8, 9, rng.randint(1, longest)])
    shared = rng.choice(stems)[: rng.choice([0, length // 2, length, length])]
    return (shared + [rng.randrange(VOCABULARY) for _ in range(longest)])[:length]


def random_items(rng: random.Random, length: int) -> list[tuple[str, int, int]]:
    if length < 6 or rng.random() < 0.8:
        return []
    start = rng.randrange(0, length - 3)
    return [(rng.choice([CAT, DOG]), start, rng.randint(1, length - start))]


def interleave(seed: int, setup: Setup, folder: Path, totals: Counter[str]) -> None:
    rng = random.Random(seed)
    store: dict[str, bytes] = {}
    engines = [Engine(setup, store, folder, rng)]
    if rng.random() < 0.7:  # a prefill and a decode engine over one store
        engines = [
            Engine(Setup(**{**setup.__dict__, "role": role}), store, folder, rng)
            for role in ("kv_producer", "kv_consumer")
        ]
    for engine in engines:
        engine.speed = rng.choice([0.05, 0.2, 0.5, 1.0])
    stems = [[rng.randrange(VOCABULARY) for _ in range(60)] for _ in range(2)]
    trouble = rng.choice([0.0, 0.0, 0.1, 0.5])
    longest = min(24, setup.budget if not setup.chunked else 24, (setup.blocks - 4) * setup.block_size)
    count = 0
    history: list[tuple[list[int], list[tuple[str, int, int]]]] = []

    def fault(op: str, key: str) -> str | None:
        return rng.choice(CAUSES) if rng.random() < (trouble / 10 if op == "exist" else trouble) else None

    for _ in range(rng.randint(30, 120)):
        engine = rng.choice(engines)
        engine.fault = fault
        action = rng.random()
        if action < 0.35:
            if history and rng.random() < 0.6:
                prompt, items = rng.choice(history)
            else:
                prompt = random_prompt(rng, stems, longest)
                items = random_items(rng, len(prompt))
                for _, start, length in items:  # vLLM's own prefix cache tells an image's place only by placeholders
                    prompt[start : start + length] = [PLACEHOLDER] * length
                history.append((prompt, items))
            answer = 1 if engine.setup.role == "kv_producer" else rng.randint(1, 8)
            engine.add(f"r{count}", list(prompt), answer, items)
            count += 1
        elif action < 0.40 and (live := engine.live()):
            engine.abort(rng.choice(live))
        elif action < 0.43 and store:
            del store[rng.choice(list(store))]
        elif action < 0.50:
            engine.scheduler.kv_cache_manager.reset_prefix_cache()  # device memory alone, so that blocks are loaded
        else:
            engine.pump(rng.random())
            if engine.scheduler.has_requests():
                engine.step()
    for engine in engines:
        engine.finish()
        totals.update(engine.counts)
        totals["steps"] += engine.steps


SETUPS = {
    "vllm-chunked": Setup(),
    "vllm-small-cache": Setup(blocks=11, seqs=6),
    "vllm-no-prefix-cache": Setup(caching=False, blocks=14),
    "vllm-saves-output": Setup(blocks=14, extra={"save_output": True}),
    "ascend": Setup(ascend=True, chunked=False, budget=64),
    "ascend-small-cache": Setup(ascend=True, chunked=False, budget=64, blocks=11, seqs=6),
    "ascend-chunked": Setup(ascend=True, chunked=True, blocks=14),
}


@pytest.mark.parametrize("name", list(SETUPS))
def test_any_interleaving_ends_with_right_answers_and_nothing_left(name: str, folder: Path) -> None:
    totals: Counter[str] = Counter()
    for seed in range(SCALE):
        try:
            interleave(seed, SETUPS[name], folder, totals)
        except BaseException:
            print(f"interleaving {name} with seed {seed}")
            raise
    print(name, dict(totals))
    assert totals["loaded_blocks"] > 0, "loads must have happened"
    assert totals["saved_blocks"] > SCALE, "saves must have happened"
    if SCALE < 500:
        return  # too few for the rarer events
    assert totals["loaded_blocks"] > SCALE
    assert totals["drained"] > 0, "loads must have been aborted"
    assert "small" not in name or totals["resumed"] > 0, "requests must have been preempted and resumed"
    assert any(cause.startswith("load_failures") for cause in totals), "loads must have failed"


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_always_report_the_same(ranks: int, folder: Path) -> None:
    totals: Counter[str] = Counter()
    for seed in range(max(20, SCALE // 10)):
        interleave(seed, Setup(ranks=ranks, blocks=14), folder, totals)
    assert totals["loaded_blocks"] > 0
