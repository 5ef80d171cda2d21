"""Raw results of a run that nobody measured, with every figure chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yrpd.bench.runs import counters
from yrpd.bench.runs.ledger import Ledger

BLOCK = 100
CONFIGURATION = {
    "profile": "made-up", "cases": [], "device_tokens": 1000, "block_size": BLOCK, "model_digest": "m", "cpus": 2,
    "machine": "x86_64", "processor": "a processor", "packages": {"vllm": "0.10.0"}, "connector": "c",
    "kv_bytes_per_token": 4096,
}  # fmt: skip
PROMPTS = 10


def raw(
    arm: str,
    ttft: float,
    local: float,
    external: float,
    shape: str = "grouped",
    length: int = 1000,
    ceiling: float = 0.5,
    text: str = "yes",
    later: float | None = None,
    groups: int = 5,
) -> dict[str, Any]:
    """Return one repetition of one arm."""
    tokens = PROMPTS * length
    grown = dict.fromkeys(counters.NAMES, 0.0)
    grown["vllm:prefix_cache_queries_total"] = tokens + 32
    grown["vllm:prefix_cache_hits_total"] = local * tokens
    grown["yuanrong_loaded_blocks_total"] = external * tokens / BLOCK
    grown["vllm:time_to_first_token_seconds_count"] = PROMPTS
    grown["vllm:time_to_first_token_seconds_sum"] = PROMPTS * ttft
    ttfts = [ttft] * groups + [ttft if later is None else later] * (PROMPTS - groups)
    result = {
        "errors": [""] * (PROMPTS + 1), "completed": PROMPTS + 1, "input_lens": [16] + [length] * PROMPTS,
        "ttfts": [9.0, *ttfts], "itls": [[0.01]] * (PROMPTS + 1), "generated_texts": [text] * (PROMPTS + 1),
        "duration": PROMPTS * ttft, "request_throughput": 1 / ttft,
    }  # fmt: skip
    dataset = {"shape": shape, "length": length, "salt": "s", "sha256": "", "prompts": PROMPTS, "groups": groups,
               "prompt_tokens": tokens, "ceiling": ceiling, "expected_device": 0.0, "opening_tokens": 16}  # fmt: skip
    return {"arm": arm, "dataset": dataset, "load": {}, "counters": grown, "tiers": {}, "result": result}


def made_up_run(folder: Path, slower: float = 1.0) -> Ledger:
    """Write a run in which ours finds 50 % and plain vLLM 20 %, and each token costs a millisecond.

    Args:
        folder: Where.
        slower: Factor on our times.
    """
    ledger = Ledger.begin(folder, CONFIGURATION, "invoke bench --profile made-up")
    for number in range(3):
        ledger.add(
            "grouped-1000-c1",
            number,
            {
                "baseline": raw("baseline", 0.8, 0.2, 0.0),
                "single": raw("single", 0.5 * slower, 0.1, 0.4),
                "large": raw("large", 0.4, 0.5, 0.0),
            },
        )
        ledger.add(
            "repeated-1000-c1",
            number,
            {
                "large": raw("large", 1.0, 0.5, 0.0, "repeated", later=0.1),
                "single": raw("single", 1.0, 0.0, 0.5, "repeated", later=0.12 * slower),
            },
        )
        ledger.add(
            "unique-1000-c1",
            number,
            {
                "baseline": raw("baseline", 1.0, 0.0, 0.0, "unique", ceiling=0.0),
                "single": raw("single", 1.01 * slower, 0.0, 0.0, "unique", ceiling=0.0),
            },
        )
        ledger.add(
            "document-1000-c1",
            number,
            {
                "baseline": raw("baseline", 1.0, 0.0, 0.0, "document"),
                "single": raw("single", 1.0, 0.0, 0.45, "document", later=0.14 * slower, text="yes"),
                "large": raw("large", 1.0, 0.45, 0.0, "document", later=0.125),
            },
        )
        ledger.add(
            "multi-turn-1000-c1",
            number,
            {
                "baseline": raw("baseline", 0.8, 0.2, 0.0, "multi-turn"),
                "single": raw("single", 0.5, 0.1, 0.35, "multi-turn"),
            },
        )
    return ledger
