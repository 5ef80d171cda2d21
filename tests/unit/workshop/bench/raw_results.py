"""Raw results of a run that nobody measured, with every figure chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workshop.bench.runs.counted import NAMES
from workshop.bench.runs.ledger import Ledger

BLOCK = 100
CONFIGURATION = {
    "profile": "made-up", "cases": [], "device_tokens": 1000, "block_size": BLOCK, "model_digest": "m", "cpus": 2,
    "machine": "x86_64", "processor": "a processor", "packages": {"vllm": "0.10.0"}, "connector": "c",
    "kv_bytes_per_token": 4096,
}  # fmt: skip
PROMPTS = 10
OPENING, OUTSIDE = 9.0, 0.01  # seconds of an opening request; of any request outside the engine


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
    grown = dict.fromkeys(NAMES, 0.0)
    grown["vllm:prefix_cache_queries_total"] = (
        tokens + 4 * 16
    )  # an opening request and the try before it, in two pieces
    grown["vllm:prefix_cache_hits_total"] = local * tokens
    grown["yuanrong_loaded_blocks_total"] = external * tokens / BLOCK
    ttfts = [ttft] * groups + [ttft if later is None else later] * (PROMPTS - groups)
    grown["vllm:time_to_first_token_seconds_count"] = PROMPTS + 4
    grown["vllm:time_to_first_token_seconds_sum"] = sum(ttfts) - PROMPTS * OUTSIDE + 4 * (OPENING - OUTSIDE)
    grown["vllm:request_queue_time_seconds_sum"] = PROMPTS * ttft / 10
    grown["vllm:request_prefill_time_seconds_sum"] = PROMPTS * ttft / 2 + 4 * (OPENING - OUTSIDE)
    grown["yuanrong_load_seconds_sum"] = PROMPTS * ttft / 20
    pieces = []
    for place, part in enumerate((ttfts[: PROMPTS // 2], ttfts[PROMPTS // 2 :])):
        count = len(part) + 1
        result = {
            "errors": [""] * count, "completed": count, "input_lens": [16] + [length] * len(part),
            "ttfts": [OPENING, *part], "itls": [[0.01]] * count, "generated_texts": [text] * count,
            "duration": OPENING + 0.01 + len(part) * ttft,
        }  # fmt: skip
        counted = {name: value / 2 for name, value in grown.items()}
        pieces.append({"prompts": len(part), "sha256": f"{place}", "counters": counted, "tiers": {}, "result": result})
    dataset = {"shape": shape, "length": length, "salt": "s", "prompts": PROMPTS, "groups": groups,
               "prompt_tokens": tokens, "ceiling": ceiling, "expected_device": 0.0, "opening_tokens": 16}  # fmt: skip
    return {"arm": arm, "dataset": dataset, "load": {"concurrency": 1}, "pieces": pieces}


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
