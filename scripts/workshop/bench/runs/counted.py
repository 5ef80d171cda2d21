"""The engine's and the connector's counters, before and after a measurement. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

#: What is read, under the names of vLLM 0.10.0 and of the connector; sums and counts of the histograms among them.
NAMES = (
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prompt_tokens_total",
    "vllm:num_preemptions_total",
    "vllm:time_to_first_token_seconds_sum",
    "vllm:time_to_first_token_seconds_count",
    "vllm:request_queue_time_seconds_sum",
    "vllm:request_prefill_time_seconds_sum",
    "vllm:request_decode_time_seconds_sum",
    "yuanrong_queried_tokens_total",
    "yuanrong_matched_tokens_total",
    "yuanrong_loaded_blocks_total",
    "yuanrong_loaded_bytes_total",
    "yuanrong_saved_blocks_total",
    "yuanrong_saved_bytes_total",
    "yuanrong_load_failures_total",
    "yuanrong_save_failures_total",
    "yuanrong_recomputed_requests_total",
    "yuanrong_load_seconds_sum",
    "yuanrong_load_seconds_count",
    "yuanrong_save_seconds_sum",
)


def read(text: str) -> dict[str, float]:
    """Return the counters of a ``/metrics`` page, summed over their labels; 0 for those that are not there."""
    found = dict.fromkeys(NAMES, 0.0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in found:
                found[sample.name] += sample.value
    return found


def growth(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each counter grew."""
    return {name: after[name] - before[name] for name in NAMES}
