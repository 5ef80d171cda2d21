"""vLLM's own objects, made and read in the form of the release that is there (0.10.0 or 0.11.0)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import torch
from vllm.multimodal.inputs import PlaceholderRange
from vllm.sampling_params import SamplingParams
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

#: An item: its hash, the offset of its placeholder and its length, in tokens.
Item = tuple[str, int, int]

_SPEC_FIELDS = {field.name for field in fields(FullAttentionSpec)}
_OUTPUT_FIELDS = {field.name for field in fields(ModelRunnerOutput)}
_HASHES_BLOCKS_IN_THE_REQUEST = hasattr(kv_cache_utils, "get_request_block_hasher")


def make_request(name: str, prompt: list[int], items: Sequence[Item], output: int, block_size: int, **more: Any) -> Any:
    """Return a request that ends after ``output`` tokens.

    Args:
        name: Its id.
        prompt: Its token ids.
        items: Its multimodal items; nothing is encoded, so they have no data.
        output: Tokens to generate.
        block_size: Tokens per KV block, which vLLM 0.11.0's requests are hashed by.
        more: What vLLM's ``Request`` has besides, for example ``lora_request``, ``cache_salt`` or ``priority``.
    """
    params = SamplingParams(max_tokens=output, ignore_eos=True)
    places = [PlaceholderRange(offset=offset, length=length) for _, offset, length in items]
    shared = {
        "request_id": name, "prompt_token_ids": prompt, "sampling_params": params, "pooling_params": None,
        "eos_token_id": None, **more,
    }  # fmt: skip
    if not _HASHES_BLOCKS_IN_THE_REQUEST:
        return Request(
            **shared,
            multi_modal_inputs=[object()] * len(items),
            multi_modal_hashes=[digest for digest, _, _ in items],
            multi_modal_placeholders=places,
        )
    from vllm.multimodal.inputs import MultiModalFeatureSpec

    features = [
        MultiModalFeatureSpec(data=None, modality="image", identifier=digest, mm_position=place)
        for (digest, _, _), place in zip(items, places, strict=True)
    ]
    return Request(**shared, mm_features=features, block_hasher=_block_hasher(block_size))


@cache
def _block_hasher(block_size: int) -> Any:
    """Return vLLM 0.11.0's hasher; made once, since each root of its chains is a random number."""
    from vllm.utils import sha256

    kv_cache_utils.init_none_hash(sha256)
    return kv_cache_utils.get_request_block_hasher(block_size, sha256)


def attention_spec(
    block_size: int, heads: int, head_size: int, dtype: torch.dtype = torch.float32
) -> FullAttentionSpec:
    """Return the description of one group of plain attention layers."""
    mla = {"use_mla": False} if "use_mla" in _SPEC_FIELDS else {}
    return FullAttentionSpec(block_size=block_size, num_kv_heads=heads, head_size=head_size, dtype=dtype, **mla)


def window_spec(block_size: int, heads: int, head_size: int, window: int) -> SlidingWindowSpec:
    """Return the description of one group of layers that attend to a window of tokens."""
    mla = {"use_mla": False} if "use_mla" in _SPEC_FIELDS else {}
    return SlidingWindowSpec(
        block_size=block_size, num_kv_heads=heads, head_size=head_size, dtype=torch.float32, sliding_window=window,
        **mla,
    )  # fmt: skip


def items_of(new: Any) -> list[Item]:
    """Return the items that a scheduler's output names for a new request."""
    if hasattr(new, "mm_features"):
        return [(f.identifier, f.mm_position.offset, f.mm_position.length) for f in new.mm_features]
    return [(h, p.offset, p.length) for h, p in zip(new.mm_hashes, new.mm_positions, strict=False)]


def blocks_of(block_ids: Any) -> list[int]:
    """Return the new blocks of a running request; vLLM 0.11.0 says None where there are none."""
    return [] if block_ids is None else list(block_ids[0])


def model_output(names: Sequence[str], sampled: list[list[int]]) -> Any:
    """Return what a model runner answers with.

    Args:
        names: The scheduled requests.
        sampled: The tokens of each.
    """
    values = {
        "req_ids": list(names), "req_id_to_index": {name: i for i, name in enumerate(names)},
        "sampled_token_ids": sampled, "spec_token_ids": None, "logprobs": None, "prompt_logprobs_dict": {},
        "pooler_output": [],
    }  # fmt: skip
    return ModelRunnerOutput(**{name: value for name, value in values.items() if name in _OUTPUT_FIELDS})


def with_transfers(output: Any, sending: set[str], recving: set[str]) -> Any:
    """Return a copy of a model runner's output that reports ended transfers."""
    mine = copy.copy(output)
    if "kv_connector_output" not in _OUTPUT_FIELDS:
        mine.finished_sending, mine.finished_recving = sending or None, recving or None
        return mine
    from vllm.v1.outputs import KVConnectorOutput

    mine.kv_connector_output = KVConnectorOutput(finished_sending=sending or None, finished_recving=recving or None)
    return mine


def room_for_encoder_outputs(scheduler: Any) -> int:
    """Return how many tokens of encoder outputs could be held now: vLLM 0.11.0 keeps unused ones until it must not."""
    manager = scheduler.encoder_cache_manager
    return int(getattr(manager, "num_freeable_slots", manager.num_free_slots))


def forget_encoder_outputs(scheduler: Any) -> None:
    """Let no later request find an image encoded, which vLLM 0.10.0 never does."""
    manager = scheduler.encoder_cache_manager
    scheduler.encoder_cache_manager = type(manager)(cache_size=manager.cache_size)
