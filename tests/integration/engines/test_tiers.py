"""Device memory, then the DataSystem's memory, then its disk: a block is found in each, and ``/metrics`` tells."""

from __future__ import annotations

import uuid

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from vllm_ascend.distributed.yuanrong.tiers import TIERS  # noqa: E402

from tests.integration.engines.conftest import MEMORY_MB  # noqa: E402
from tests.integration.engines.rig import BLOCK, Engine, Reference, eventually, prompt  # noqa: E402

TOKENS = 1600
LOADED = (TOKENS - 1) // BLOCK
PROMPTS = 8
ATTEMPTS = 3


def reads(engine: Engine) -> dict[str, float]:
    return {tier: engine.value("yuanrong_tier_reads_total", tier=tier) for tier in TIERS}


def test_blocks_are_found_in_every_tier(engine: Engine, plain: Reference) -> None:
    questions = [prompt(f"tiers {number}", TOKENS) for number in range(PROMPTS)]
    plain.prepare(questions)

    def ask(number: int) -> dict[str, float]:
        """Ask one, and return the tokens that came from device memory and the blocks that came from the DataSystem."""
        names = ("vllm:prefix_cache_hits_total", "yuanrong_loaded_blocks_total")
        before = [engine.value(name) for name in names]
        plain.check(questions[number], engine.ask(questions[number], salt))
        return dict(zip(names, (engine.value(n) - b for n, b in zip(names, before, strict=True)), strict=True))

    # Where the machine is busy a save may run into its deadline, which costs a later hit: then they are asked anew.
    for _ in range(ATTEMPTS):
        salt, unsaved = uuid.uuid4().hex, engine.value("yuanrong_save_failures_total")
        for number in range(PROMPTS):
            ask(number)
        if engine.value("yuanrong_save_failures_total") == unsaved:
            break
    else:
        raise AssertionError(
            "\n".join(line for line in engine.metrics().splitlines() if "_save_failures_total" in line)
        )
    written = engine.counters()["saved_bytes"]
    assert written > MEMORY_MB << 20, "everything fits into memory"
    start = reads(engine)
    # Device memory holds little more than one prompt: only the last is there.
    assert ask(PROMPTS - 1)["vllm:prefix_cache_hits_total"] == LOADED * BLOCK
    for number in range(PROMPTS):
        engine.forget()
        got = ask(number)
        assert got["yuanrong_loaded_blocks_total"] == LOADED, "a block was lost"
        engine.forget()
        got = ask(number)
        assert got["yuanrong_loaded_blocks_total"] == LOADED
    blocks = 2 * PROMPTS * LOADED

    def all_counted() -> None:
        grown = {tier: count - start[tier] for tier, count in reads(engine).items()}
        assert grown["memory"] + grown["disk"] == blocks, grown
        assert grown["disk"] > 0
        assert grown["memory"] > 0
        assert grown["missing"] == grown["l2"] == grown["remote"] == 0
        print({tier: f"{count / blocks:.0%}" for tier, count in grown.items()})

    eventually(all_counted, 30)
    assert engine.value("yuanrong_tier_bytes", tier="disk") > 0
