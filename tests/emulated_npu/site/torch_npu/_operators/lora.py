"""vllm-ascend's own kernels for LoRA, ``torch.ops._C.bgmv_*``, which its compiled ``vllm_ascend_C`` brings.

Semantics: ``csrc/kernels/bgmv_shrink.cpp``, ``bgmv_expand.cpp`` and the checks of ``csrc/torch_binding.cpp``. The real
ones take half precision alone; float32 is taken here too, so that answers can be held to a reference closely.
"""

from __future__ import annotations

import torch


def bgmv_shrink(x: torch.Tensor, weight: torch.Tensor, indices: torch.Tensor, y: torch.Tensor, scale: float) -> None:
    """Set each row of ``y`` with an adapter to ``x @ A.T * scale``.

    Args:
        x: Rows, ``[tokens, hidden]``.
        weight: A of all adapters, ``[adapters, rank, hidden]``, perhaps with a 1 after the first.
        indices: The adapter of each row; -1 for none, whose row of ``y`` stays.
        y: Result ``[tokens, rank]``, float32.
        scale: Factor.
    """
    for adapter in indices.unique().tolist():
        if adapter >= 0:
            rows = indices == adapter
            y[rows] = (x[rows].float() @ _matrix(weight, adapter).T * scale).to(y.dtype)


def bgmv_expand(
    x: torch.Tensor, weight: torch.Tensor, indices: torch.Tensor, y: torch.Tensor, slice_offset: int, slice_size: int
) -> torch.Tensor:
    """Add ``x @ B.T`` to a slice of each row of ``y`` with an adapter, and return ``y``.

    Args:
        x: Rows, ``[tokens, rank]``, float32.
        weight: B of all adapters, ``[adapters, slice_size, rank]``, perhaps with a 1 after the first.
        indices: The adapter of each row; -1 for none.
        y: ``[tokens, hidden]``.
        slice_offset: First column of the slice.
        slice_size: Its columns.
    """
    columns = slice(slice_offset, slice_offset + slice_size)
    for adapter in indices.unique().tolist():
        if adapter >= 0:
            rows = indices == adapter
            total = y[rows, columns].float() + x[rows].float() @ _matrix(weight, adapter).T
            y[rows, columns] = total.to(y.dtype)
    return y


def _matrix(weight: torch.Tensor, adapter: int) -> torch.Tensor:
    return weight[adapter].reshape(weight.shape[-2:]).float()


def register() -> None:
    """Put both where the compiled ones would be."""
    library.define("bgmv_shrink(Tensor x, Tensor weight, Tensor indices, Tensor(a!) y, float scale) -> ()")
    library.define(
        "bgmv_expand(Tensor x, Tensor weight, Tensor indices, Tensor(a!) y, int slice_offset, int slice_size)"
        " -> Tensor(a!)"
    )
    for key in ("PrivateUse1", "AutogradPrivateUse1"):
        library.impl("bgmv_shrink", bgmv_shrink, key)
        library.impl("bgmv_expand", bgmv_expand, key)


library = torch.library.Library("_C", "FRAGMENT")
