"""What a dataset is, beside its files: enough to make it again, and the hit rates that it should give."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workshop.bench.dataset.caching import Expectation
from yrpd.errors import ConfigurationError

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelSizes:
    """What a token costs in a model's KV cache.

    Attributes:
        layers: Layers with attention.
        kv_heads: Key/value heads.
        head_size: Numbers of one head.
        dtype: Type of a number.
    """

    layers: int
    kv_heads: int
    head_size: int
    dtype: str

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return self.layers * 2 * self.kv_heads * self.head_size * _DTYPE_BYTES[self.dtype]


def model_sizes(folder: Path, dtype: str = "") -> ModelSizes:
    """Read the sizes from a model's ``config.json``.

    Raises:
        ConfigurationError: The file is missing or names no such sizes.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        heads = int(config["num_attention_heads"])
        return ModelSizes(
            layers=int(config["num_hidden_layers"]),
            kv_heads=int(config.get("num_key_value_heads", heads)),
            head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
            dtype=dtype or str(config.get("torch_dtype") or config["dtype"]),
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"{path} does not give the KV cache's sizes: {error!r}.") from error


def manifest(
    *,
    shape: dict[str, Any],
    count: int,
    output: int,
    seed: int,
    salt: str,
    vllm_seed: int,
    tokenizer: str,
    files: dict[str, str],
    expectation: Expectation,
    block_size: int,
    device_tokens: int,
    sizes: ModelSizes,
) -> dict[str, Any]:
    """Return the manifest as a document."""
    stored = expectation.blocks * block_size * sizes.bytes_per_token
    return {
        "format": 1,
        "shape": shape,
        "requests": count,
        "output_tokens": output,
        "seed": seed,
        "salt": salt,
        "vllm_seed": vllm_seed,
        "tokenizer_sha256": tokenizer,
        "prompt_tokens": expectation.tokens,
        "files": files,
        "hit_ceiling": expectation.ceiling_rate,
        "block_size": block_size,
        "device_cache_tokens": device_tokens,
        "expected_hit_rate": {"device": expectation.device_rate, "with_datasystem": expectation.total_rate},
        "kv_bytes_per_token": sizes.bytes_per_token,
        "datasystem_bytes": stored,
    }
