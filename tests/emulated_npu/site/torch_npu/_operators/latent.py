"""Latent attention in chunks (``torch_npu.atb``): a part of the context at a time, merged by log-sums.

Semantics: the ATB operator reference (PagedCacheLoad, RingMLA), and the calls of vllm-ascend's ``mla_v1.py``. Other
forms of the calls are refused.
"""

from __future__ import annotations

import torch

from .._refusal import NotEmulatedError
from .attention import _lengths

CAUSAL, WHOLE = ("mask_type_triu", "calc_type_first_ring"), ("no_mask", "calc_type_default")


def npu_paged_cache_load(
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    *,
    seq_starts: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> None:
    """Copy tokens of sequences out of a paged cache, one sequence after the other.

    Args:
        key_cache: ``[blocks, block size, heads, width]``.
        value_cache: The same of another width.
        block_table: ``[sequences, blocks]``.
        context_lens: Tokens to copy of each sequence; on the device.
        seq_starts: The first of them; on the device.
        key: Result ``[tokens, heads, width]``.
        value: Result of the other width.
    """
    position = 0
    for row, start, length in zip(block_table, seq_starts.tolist(), context_lens.tolist(), strict=True):
        places = torch.arange(start, start + length, device=row.device)
        block, offset = row[places // key_cache.shape[1]].long(), places % key_cache.shape[1]
        key[position : position + length] = key_cache[block, offset]
        value[position : position + length] = value_cache[block, offset]
        position += length


def npu_ring_mla(
    *,
    q_nope: torch.Tensor,
    q_rope: torch.Tensor,
    k_nope: torch.Tensor,
    k_rope: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    seqlen: torch.Tensor,
    head_num: int,
    kv_head_num: int,
    pre_out: torch.Tensor | None,
    prev_lse: torch.Tensor | None,
    qk_scale: float,
    kernel_type: str,
    mask_type: str,
    input_layout: str,
    calc_type: str,
    output: torch.Tensor,
    softmax_lse: torch.Tensor,
) -> None:
    """Compute attention over one part of each sequence's keys, and merge it with what was computed before.

    Args:
        q_nope: ``[tokens, heads, width]``.
        q_rope: The rotated part of the queries.
        k_nope: ``[keys, heads, width]``.
        k_rope: The rotated part of the keys.
        value: ``[keys, heads, value width]``.
        mask: The upper triangle; what it hides follows from ``mask_type``.
        seqlen: Queries of each sequence, int32 on the host; with a second row for its keys, where they are others.
        head_num: Heads.
        kv_head_num: The same.
        pre_out: Result so far; None in the first part.
        prev_lse: Its logarithms ``[heads, tokens]``, float32.
        qk_scale: Of the scores.
        kernel_type: Of no meaning in float32.
        mask_type: ``mask_type_triu``: a query sees the keys up to its own; ``no_mask``: all.
        input_layout: ``type_bsnd``, packed.
        calc_type: First part or a later one.
        output: Result ``[tokens, heads, value width]``.
        softmax_lse: Its logarithms.

    Raises:
        NotEmulatedError: Another layout, or another pair of mask and kind of part.
    """
    if (mask_type, calc_type) not in (CAUSAL, WHOLE) or input_layout != "type_bsnd":
        raise NotEmulatedError(f"npu_ring_mla with {mask_type}, {calc_type}, {input_layout} is not emulated")
    if (head_num, kv_head_num) != (q_nope.shape[1], k_nope.shape[1]) or head_num != kv_head_num:
        raise RuntimeError(f"{head_num} and {kv_head_num} heads, but {list(q_nope.shape)}, {list(k_nope.shape)}")
    first = (mask_type, calc_type) == CAUSAL
    rows = seqlen if seqlen.dim() == 2 else torch.stack([seqlen, seqlen])
    query, key = (torch.cat(parts, dim=-1).float() for parts in ((q_nope, q_rope), (k_nope, k_rope)))
    q_start = k_start = 0
    for queries, keys in zip(_lengths("npu_ring_mla", rows[0]), _lengths("npu_ring_mla", rows[1]), strict=True):
        q, k = slice(q_start, q_start + queries), slice(k_start, k_start + keys)
        q_start, k_start = q.stop, k.stop
        if not keys:
            continue
        scores = torch.einsum("shd,lhd->hsl", query[q], key[k]) * qk_scale
        if first:
            hidden = torch.ones(queries, keys, device=scores.device).triu(1).bool()
            scores = scores.masked_fill(hidden, -float("inf"))
        lse = scores.logsumexp(-1)
        part = torch.einsum("hsl,lhd->shd", scores.softmax(-1), value[k].float())
        if not first:
            assert pre_out is not None
            assert prev_lse is not None
            total = torch.logaddexp(prev_lse[:, q], lse)
            before, now = (prev_lse[:, q] - total).exp().T[..., None], (lse - total).exp().T[..., None]
            part, lse = pre_out[q].float() * before + part * now, total
        output[q] = part.to(output.dtype)
        softmax_lse[:, q] = lse
