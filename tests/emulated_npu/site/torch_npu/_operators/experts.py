"""Mixture of experts: which experts a token goes to, its rows sorted by expert, and back.

Semantics: the Ascend extension for PyTorch's API reference (``npu_moe_*``, ``npu_grouped_matmul``). Only what
vllm-ascend asks for without expert parallelism is here; other arguments are refused.
"""

from __future__ import annotations

import torch

from .._refusal import NotEmulatedError


def npu_moe_gating_top_k_softmax(
    x: torch.Tensor, finished: torch.Tensor | None = None, k: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the ``k`` greatest softmax scores of each row ``[tokens, k]``, their experts, and the rows' numbers.

    Raises:
        NotEmulatedError: Some rows are said to be finished.
    """
    if finished is not None:
        raise NotEmulatedError("npu_moe_gating_top_k_softmax with finished rows is not emulated")
    scores, experts = x.float().softmax(-1).topk(k, dim=-1)
    numbers = torch.arange(experts.numel(), dtype=torch.int32, device=x.device).view(k, -1).T.contiguous()
    return scores.to(x.dtype), experts.to(torch.int32), numbers


def npu_moe_init_routing(
    x: torch.Tensor, row_idx: torch.Tensor, expert_idx: torch.Tensor, active_num: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sort each token's copies by expert.

    Args:
        x: ``[tokens, hidden]``.
        row_idx: Number of each copy ``[tokens, k]``; copy ``n`` is of token ``n % tokens``.
        expert_idx: Its expert ``[tokens, k]``.
        active_num: Tokens to route, all of them.

    Returns:
        The copies by expert ``[tokens * k, hidden]``, the place of copy ``n`` among them, and the experts, sorted.

    Raises:
        NotEmulatedError: Only some tokens are to be routed.
    """
    tokens = x.shape[0]
    if active_num != tokens:
        raise NotEmulatedError(f"npu_moe_init_routing of {active_num} of {tokens} tokens is not emulated")
    experts, order = expert_idx.flatten().sort(stable=True)
    numbers = row_idx.flatten()[order].long()
    places = torch.empty_like(numbers)
    places[numbers] = torch.arange(numbers.numel(), device=x.device)
    return x[numbers % tokens], places.to(torch.int32), experts


def npu_moe_compute_expert_tokens(sorted_experts: torch.Tensor, num_expert: int) -> torch.Tensor:
    """Return, for each expert, how many copies go to it and to those before it."""
    experts = torch.arange(num_expert, device=sorted_experts.device, dtype=sorted_experts.dtype)
    return (sorted_experts[None, :] <= experts[:, None]).sum(-1).to(torch.int32)


def npu_grouped_matmul(
    x: list[torch.Tensor],
    weight: list[torch.Tensor],
    *,
    group_list: torch.Tensor,
    split_item: int,
    group_type: int,
    group_list_type: int,
) -> list[torch.Tensor]:
    """Multiply runs of rows by a matrix each.

    Args:
        x: One tensor ``[rows, in]``.
        weight: One tensor ``[groups, in, out]``.
        group_list: Where each group's run ends.
        split_item: 2: one tensor as the result.
        group_type: 0: groups are runs of rows.
        group_list_type: 0: ends, not lengths.

    Raises:
        NotEmulatedError: Any other form.
    """
    if len(x) != 1 or len(weight) != 1 or (split_item, group_type, group_list_type) != (2, 0, 0):
        raise NotEmulatedError("npu_grouped_matmul is emulated for one tensor, runs of rows given by their ends")
    result = x[0].new_full((x[0].shape[0], weight[0].shape[-1]), float("nan"))  # beyond the last run: anything
    start = 0
    for matrix, end in zip(weight[0], group_list.tolist(), strict=True):
        result[start:end] = x[0][start:end] @ matrix
        start = end
    return [result]


def npu_moe_finalize_routing(
    expanded_permuted_rows: torch.Tensor,
    skip1: torch.Tensor | None,
    skip2: torch.Tensor | None,
    bias: torch.Tensor | None,
    scales: torch.Tensor,
    expanded_src_to_dst_row: torch.Tensor,
    export_for_source_row: torch.Tensor,
) -> torch.Tensor:
    """Return each token's weighted sum over its copies ``[tokens, hidden]``.

    Args:
        expanded_permuted_rows: Results of the copies, by expert.
        skip1: None.
        skip2: None.
        bias: None.
        scales: Weights ``[tokens, k]``.
        expanded_src_to_dst_row: Place of copy ``n``, see :func:`npu_moe_init_routing`.
        export_for_source_row: Experts ``[tokens, k]``; they would choose the bias.

    Raises:
        NotEmulatedError: There is something to add.
    """
    if any(each is not None for each in (skip1, skip2, bias)):
        raise NotEmulatedError("npu_moe_finalize_routing with something to add is not emulated")
    tokens, k = scales.shape
    rows = expanded_permuted_rows[expanded_src_to_dst_row.long()].view(k, tokens, -1).float()
    return (rows * scales.T[:, :, None].float()).sum(0).to(expanded_permuted_rows.dtype)
