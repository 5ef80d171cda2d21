"""Attention of the ATB library: packed sequences, paged caches, masks as given, results written to ``out``.

Every operator takes its lengths as int32 on the host, as ATB does, and computes in float32. Tokens beyond the lengths'
sum (padding) are left as they are in ``out``.
"""

from __future__ import annotations

import torch

from .._refusal import NotEmulatedError


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return attention of one sequence.

    Args:
        query: ``[S, heads, D]``.
        key: ``[L, KV heads, D]``; each serves ``heads / KV heads`` query heads that follow each other.
        value: ``[L, KV heads, Dv]``.
        scale: Of the scores.
        bias: ``[S, L]``, added to the scores; or None.

    Returns:
        ``[S, heads, Dv]`` in float32.
    """
    shared = query.shape[1] // key.shape[1]
    wide_key = key.float().repeat_interleave(shared, dim=1)
    wide_value = value.float().repeat_interleave(shared, dim=1)
    scores = torch.einsum("shd,lhd->hsl", query.float(), wide_key) * scale
    if bias is not None:
        scores = scores + bias.float()
    return torch.einsum("hsl,lhd->shd", scores.softmax(-1), wide_value)


def _lengths(name: str, lengths: torch.Tensor) -> list[int]:
    if lengths.device.type != "cpu" or lengths.dtype != torch.int32:
        raise RuntimeError(f"{name} needs lengths as int32 on the host, not {lengths.dtype} on {lengths.device}")
    return [int(length) for length in lengths.tolist()]


def _gather(cache: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """Return the first ``length`` tokens of a sequence: ``[length, KV heads, size]``."""
    blocks = -(-length // cache.shape[1])
    return cache.index_select(0, table[:blocks].to(torch.int64)).flatten(0, 1)[:length]


def _masked(mask: torch.Tensor) -> torch.Tensor:
    """Turn ATB's prefill mask, in which anything but 0 hides a key, into a bias."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask != 0, -float("inf"))


def _heads(query: torch.Tensor, num_heads: int, key: torch.Tensor, num_kv_heads: int) -> None:
    if query.shape[1] != num_heads or key.shape[-2] != num_kv_heads:
        raise RuntimeError(f"{num_heads} heads and {num_kv_heads} KV heads, but {list(query.shape)}, {list(key.shape)}")


def _npu_flash_attention(
    *,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    seq_len: torch.Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    out: torch.Tensor,
) -> None:
    """Attention of whole prompts that follow each other; ``mask`` ``[max, max]`` begins at each prompt's begin."""
    _heads(query, num_heads, key, num_kv_heads)
    bias, start = _masked(mask), 0
    for length in _lengths("_npu_flash_attention", seq_len):
        part = slice(start, start + length)
        out[part] = attend(query[part], key[part], value[part], scale_value, bias[:length, :length]).to(out.dtype)
        start += length


def _npu_flash_attention_unpad(
    *,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seq_len: torch.Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    out: torch.Tensor,
) -> None:
    """Attention of sequences that follow each other, each over all of itself (an image's patches)."""
    _heads(query, num_heads, key, num_kv_heads)
    start = 0
    for length in _lengths("_npu_flash_attention_unpad", seq_len):
        part = slice(start, start + length)
        out[part] = attend(query[part], key[part], value[part], scale_value, None).to(out.dtype)
        start += length


def _npu_flash_attention_qlens(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    mask: torch.Tensor,
    seq_len: torch.Tensor,
    context_lens: torch.Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    out: torch.Tensor,
) -> None:
    """Attention of the last ``seq_len`` tokens of sequences of ``context_lens`` tokens over the paged cache.

    Args:
        mask: ``[128, 128]``, the compressed form of the causal mask: the upper triangle without the diagonal.

    Raises:
        NotEmulatedError: The mask is another one.
    """
    _heads(query, num_heads, key_cache, num_kv_heads)
    if list(mask.shape) != [128, 128] or not torch.equal(mask.cpu() != 0, torch.ones(128, 128).triu(1) != 0):
        raise NotEmulatedError("_npu_flash_attention_qlens is emulated with the compressed causal mask only")
    start = 0
    lengths = _lengths("_npu_flash_attention_qlens", seq_len)
    for row, (new, whole) in enumerate(zip(lengths, _lengths("_npu_flash_attention_qlens", context_lens), strict=True)):
        key, value = (_gather(cache, block_table[row], whole) for cache in (key_cache, value_cache))
        hidden = torch.ones(new, whole, device=query.device).triu(1 + whole - new)
        part = slice(start, start + new)
        out[part] = attend(query[part], key, value, scale_value, _masked(hidden)).to(out.dtype)
        start += new


def _npu_paged_attention(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Attention of one new token a sequence over the paged cache, which has that token already."""
    _heads(query, num_heads, key_cache, num_kv_heads)
    for row, length in enumerate(_lengths("_npu_paged_attention", context_lens)):
        key, value = (_gather(cache, block_table[row], length) for cache in (key_cache, value_cache))
        out[row : row + 1] = attend(query[row : row + 1], key, value, scale_value, None).to(out.dtype)


def _npu_paged_attention_splitfuse(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    mask: torch.Tensor,
    block_table: torch.Tensor,
    seq_len: torch.Tensor,
    context_lens: torch.Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    out: torch.Tensor,
) -> None:
    """Attention of chunks: ``seq_len`` new tokens of sequences of ``context_lens`` tokens over the paged cache.

    Args:
        mask: ``[T, max]``, a row for each new token, added to its scores.
    """
    _heads(query, num_heads, key_cache, num_kv_heads)
    start = 0
    lengths = _lengths("_npu_paged_attention_splitfuse", seq_len)
    wholes = _lengths("_npu_paged_attention_splitfuse", context_lens)
    for row, (new, whole) in enumerate(zip(lengths, wholes, strict=True)):
        key, value = (_gather(cache, block_table[row], whole) for cache in (key_cache, value_cache))
        part = slice(start, start + new)
        out[part] = attend(query[part], key, value, scale_value, mask[part, :whole]).to(out.dtype)
        start += new


def _npu_paged_attention_mla(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    mla_vheadsize: int,
    out: torch.Tensor,
) -> None:
    """Attention of one new token a sequence over a latent cache: the values are each key's first numbers."""
    _heads(query, num_heads, key_cache, num_kv_heads)
    for row, length in enumerate(_lengths("_npu_paged_attention_mla", context_lens)):
        key = _gather(key_cache, block_table[row], length)
        value = key[..., :mla_vheadsize]
        out[row : row + 1] = attend(query[row : row + 1], key, value, scale_value, None).to(out.dtype)
