"""Norms, activations, rotations, formats, and the write into the KV cache.

Semantics: the Ascend extension for PyTorch's API reference (``npu_*``) and the ATB operator reference (``_npu_*``).
Statistics are taken in float32, results have the input's type, as documented.
"""

from __future__ import annotations

import torch

from .._library import peek, queue_write
from .._refusal import NotEmulatedError

FORMAT_ND = 2


def npu_format_cast(tensor: torch.Tensor, acl_format: int) -> torch.Tensor:
    """Return a tensor in a memory format; only ND, plain row-major, is emulated.

    Raises:
        NotEmulatedError: Another format is asked for.
    """
    if acl_format != FORMAT_ND:
        raise NotEmulatedError(f"npu_format_cast to format {acl_format} is not emulated; only {FORMAT_ND} (ND) is")
    return tensor


def get_npu_format(tensor: torch.Tensor) -> int:
    """Return the memory format of a tensor on the device, which is ND."""
    return FORMAT_ND


def npu_prefetch(tensor: torch.Tensor, dependency: torch.Tensor, max_size: int = 0) -> None:
    """Bring weights near the cores; there is nothing to bring here."""


def npu_rms_norm(x: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``x / rms(x) * gamma`` over the last dimension, and ``1 / rms`` in float32."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * scale * gamma.float()).to(x.dtype), scale


def npu_add_rms_norm(
    x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the norm of ``x1 + x2``, ``1 / rms``, and the sum itself."""
    total = x1 + x2
    y, scale = npu_rms_norm(total, gamma, epsilon)
    return y, scale, total


def npu_swiglu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Return ``silu(a) * b`` for the two halves a, b of a dimension."""
    a, b = x.float().chunk(2, dim=dim)
    return (a * torch.sigmoid(a) * b).to(x.dtype)


def npu_fast_gelu(x: torch.Tensor) -> torch.Tensor:
    """Return the sigmoid form of GELU, ``x * sigmoid(1.702 x)``."""
    return (x.float() * torch.sigmoid(1.702 * x.float())).to(x.dtype)


def npu_rotary_mul(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotary_mode: str = "half") -> torch.Tensor:
    """Rotate pairs that lie half the last dimension apart; ``cos`` and ``sin`` are already that wide.

    Raises:
        NotEmulatedError: Pairs that lie side by side are asked for.
    """
    if rotary_mode != "half":
        raise NotEmulatedError(f"npu_rotary_mul in mode {rotary_mode} is not emulated")
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def _npu_rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox_style: bool = True,
) -> None:
    """Rotate query and key in place.

    Args:
        positions: ``[T]``, rows of the cache.
        query: ``[T, heads * head_size]``.
        key: ``[T, KV heads * head_size]``.
        head_size: Of both.
        cos_sin_cache: ``[positions, rotary]``: cosines, then sines, of ``rotary / 2`` angles.
        is_neox_style: Pairs lie half the rotary width apart; else side by side.
    """
    cos, sin = cos_sin_cache.index_select(0, positions.flatten()).float().chunk(2, dim=-1)
    cos, sin, half = cos[:, None], sin[:, None], cos.shape[-1]
    for tensor in (query, key):
        if not tensor.is_contiguous():
            raise RuntimeError("_npu_rotary_embedding needs contiguous tensors")
        turned = tensor.view(cos.shape[0], -1, head_size)[..., : 2 * half]
        wide = turned.float()
        a, b = (wide[..., :half], wide[..., half:]) if is_neox_style else (wide[..., 0::2], wide[..., 1::2])
        x, y = a * cos - b * sin, b * cos + a * sin
        turned.copy_(torch.cat((x, y), dim=-1) if is_neox_style else torch.stack((x, y), dim=-1).flatten(-2))


def _npu_reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_indices: torch.Tensor,
) -> None:
    """Queue the write of keys and values into the paged cache.

    Args:
        key: ``[T, KV heads, size]``; the sizes of K and V may differ.
        value: The same of V.
        key_cache: ``[blocks, block size, KV heads, size]``, contiguous.
        value_cache: The same of V.
        slot_indices: ``[T]`` int32, ``block * block size + place``; a negative one is not written.

    Raises:
        RuntimeError: A type or shape that ATB refuses.
    """
    if slot_indices.dtype != torch.int32 or slot_indices.numel() != key.shape[0]:
        raise RuntimeError("_npu_reshape_and_cache needs one int32 slot a token")
    kept = (peek(slot_indices) >= 0).nonzero().flatten()
    slots = peek(slot_indices).to(torch.int64)[kept]
    for new, cache in ((key, key_cache), (value, value_cache)):
        if not cache.is_contiguous() or new.dtype != cache.dtype or new.shape[1:] != cache.shape[2:]:
            raise RuntimeError(f"_npu_reshape_and_cache: {list(new.shape)} does not fit {list(cache.shape)}")
        if slots.numel() and int(slots.max()) >= cache.shape[0] * cache.shape[1]:
            raise RuntimeError(f"_npu_reshape_and_cache: slot {int(slots.max())} is outside the cache")
        queue_write(cache, slots)
        cache.view(-1, *cache.shape[2:]).index_copy_(
            0, slots.to(cache.device), new.index_select(0, kept.to(new.device))
        )


def npu_top_k_top_p(logits: torch.Tensor, p: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Set all logits to minus infinity but the k largest and, of those, the fewest whose probabilities reach p.

    Args:
        logits: ``[B, vocabulary]``.
        p: ``[B]``, in (0, 1].
        k: ``[B]`` int32.
    """
    ordered, places = logits.sort(dim=-1, descending=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)[None]
    ordered = ordered.masked_fill(rank >= k[:, None], -float("inf"))
    probabilities = ordered.float().softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    ordered = ordered.masked_fill((before >= p[:, None]) & (rank > 0), -float("inf"))
    return torch.empty_like(logits).scatter_(-1, places, ordered)
