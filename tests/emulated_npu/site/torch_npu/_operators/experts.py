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


def npu_moe_gating_top_k(
    x: torch.Tensor,
    k: int,
    *,
    bias: torch.Tensor | None = None,
    k_group: int = 1,
    group_count: int = 1,
    group_select_mode: int = 0,
    renorm: int = 0,
    norm_type: int = 1,
    out_flag: bool = False,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return weights and experts ``[tokens, k]`` of DeepSeek-V3's gate, and nothing of use as the third.

    Scores are sigmoids. With the bias added to them, a group of experts counts as much as its best two together, and
    the ``k`` best experts of the ``k_group`` best groups are chosen; their weights are the scores without the bias,
    over their sum.

    Args:
        x: ``[tokens, 256]``: the API reference allows no other number of experts, of groups (8) or of chosen ones (4).
        k: Experts of a token.
        bias: ``[256]``.
        k_group: Groups to choose.
        group_count: Groups.
        group_select_mode: 1: a group's two best, 0: its best.
        renorm: 0.
        norm_type: 1: sigmoid, 0: softmax.
        out_flag: Whether the third result is to hold all scores.
        routed_scaling_factor: Multiplies the weights.
        eps: Added to their sum.

    Raises:
        NotEmulatedError: Any other form.
    """
    form = (x.shape[-1], group_count, k_group, group_select_mode, renorm, norm_type, out_flag)
    if bias is None or form != (256, 8, 4, 1, 0, 1, False):
        raise NotEmulatedError("npu_moe_gating_top_k is emulated for DeepSeek-V3's gate alone")
    scores = x.float().sigmoid()
    groups = (scores + bias.float()).view(x.shape[0], group_count, -1)
    best = groups.topk(2, dim=-1).values.sum(-1).topk(k_group, dim=-1).indices
    outside = torch.ones(groups.shape[:2], dtype=torch.bool, device=x.device).scatter(1, best, False)
    experts = groups.masked_fill(outside.unsqueeze(-1), float("-inf")).flatten(1).topk(k, dim=-1).indices
    weights = scores.gather(1, experts)
    weights = weights / (weights.sum(-1, keepdim=True) + eps) * routed_scaling_factor
    return weights.to(x.dtype), experts.to(torch.int32), torch.full_like(scores, float("nan"))


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
