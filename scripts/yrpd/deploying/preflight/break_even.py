"""From which bandwidth on loading KV blocks is faster than computing them again. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from yrpd.deploying.preflight.findings import Finding

# One 910B-class card on Qwen2.5-7B, from the published figure: computed tokens per second at 8,192 tokens.
MEASURED_TOKENS_PER_SECOND = 11_600
MEASURED_PARAMETERS = 6.526e9
# Four cards are 3.3 times as fast as one: 4 ** 0.857.
PARALLEL_EXPONENT = 0.857
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Return the bytes of one token's keys and values in all layers.

    Args:
        config: The model's ``config.json``.
        dtype: What it computes in.
    """
    heads = int(config["num_attention_heads"])
    head = int(config.get("head_dim") or config["hidden_size"] // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    return int(config["num_hidden_layers"]) * 2 * kv_heads * head * BYTES[dtype]


def parameters(config: Mapping[str, Any]) -> float:
    """Return the number of weights without embeddings: projections of attention, and a gated feed-forward layer."""
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    kv = int(config.get("num_key_value_heads") or heads) * head
    layer = 2 * hidden * heads * head + 2 * hidden * kv + 3 * hidden * int(config["intermediate_size"])
    return float(int(config["num_hidden_layers"]) * layer)


def break_even(config: Mapping[str, Any], dtype: str, tensor_parallel: int) -> float:
    """Return bytes per second from which on loading wins: a token's bytes, times the tokens computed in a second.

    Args:
        config: The model's ``config.json``.
        dtype: What it computes in.
        tensor_parallel: NPUs of one replica.
    """
    rate = MEASURED_TOKENS_PER_SECOND * MEASURED_PARAMETERS / parameters(config) * tensor_parallel**PARALLEL_EXPONENT
    return float(kv_bytes_per_token(config, dtype) * rate)


def verdict(source: str, target: str, measured: float, wanted: float) -> Iterator[Finding]:
    """Yield a warning when the way between two hosts is slower than computing.

    Args:
        source: The sending host.
        target: The receiving host.
        measured: Bytes per second between them.
        wanted: Bytes per second at which loading and computing take the same time.
    """
    if measured < wanted:
        yield Finding(
            "bandwidth",
            source,
            f"{measured / 1e9:.2f} GB/s to {target} is less than the {wanted / 1e9:.2f} GB/s from which on loading KV "
            "blocks is faster than computing them",
            "use a faster network between P and D, or a higher [connector] min_load_blocks",
            "warning",
        )
