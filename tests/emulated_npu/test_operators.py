"""Each operator against a computation that shares nothing with it: loops over numbers, or transformers' functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch_npu
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.emulated
NPU = "npu:0"


def drawn(seed: int, *shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [weight / sum(weights) for weight in weights]


def attention_by_hand(query: Any, key: Any, value: Any, scale: float, visible: Any) -> Any:
    """Attention number by number; ``visible(i, j)`` tells whether token i sees key j."""
    shared = query.shape[1] // key.shape[1]
    out = torch.zeros(query.shape[0], query.shape[1], value.shape[2])
    for i in range(query.shape[0]):
        for head in range(query.shape[1]):
            seen = [j for j in range(key.shape[0]) if visible(i, j)]
            weights = softmax([float(query[i, head] @ key[j, head // shared]) * scale for j in seen])
            for j, weight in zip(seen, weights, strict=True):
                out[i, head] += weight * value[j, head // shared]
    return out


def close(got: Any, wanted: Any) -> None:
    torch.testing.assert_close(got.cpu().float(), wanted.float(), rtol=1e-4, atol=1e-5)


def paged(seed: int, lengths: list[int], heads: int, sizes: tuple[int, int], block: int = 4) -> tuple[Any, ...]:
    """Return contiguous keys and values of sequences, and the same in shuffled blocks with their table."""
    needed = [-(-length // block) for length in lengths]
    order = torch.randperm(sum(needed) + 3, generator=torch.Generator().manual_seed(seed)).tolist()
    caches = [drawn(seed + 7, len(order), block, heads, size) for size in sizes]
    table = torch.zeros(len(lengths), max(needed), dtype=torch.int32)
    plain: list[Any] = []
    for row, length in enumerate(lengths):
        blocks = [order.pop() for _ in range(needed[row])]
        table[row, : len(blocks)] = torch.tensor(blocks)
        plain.append([torch.cat([cache[number] for number in blocks])[:length] for cache in caches])
    return plain, [cache.to(NPU) for cache in caches], table.to(NPU)


def lengths_of(*numbers: int) -> Any:
    return torch.tensor(numbers, dtype=torch.int32)


# -- norms, activations, rotations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_divides_by_the_root_of_the_mean_square(dtype: Any) -> None:
    x, gamma = drawn(1, 3, 8).to(dtype), drawn(2, 8).to(dtype)
    y, scale = torch_npu.npu_rms_norm(x.to(NPU), gamma.to(NPU), 1e-6)
    for row in range(3):
        root = math.sqrt(sum(float(v) ** 2 for v in x[row]) / 8 + 1e-6)
        torch.testing.assert_close(
            y[row].cpu().float(),
            x[row].float() / root * gamma.float(),
            rtol=1e-2 if dtype != torch.float32 else 1e-5,
            atol=1e-5,
        )
        assert float(scale[row, 0]) == pytest.approx(1 / root, rel=1e-5)
    assert y.dtype == dtype


def test_add_rms_norm_is_the_norm_of_the_sum_and_returns_the_sum() -> None:
    a, b, gamma = drawn(1, 3, 8), drawn(2, 3, 8), drawn(3, 8)
    y, _, total = torch_npu.npu_add_rms_norm(a.to(NPU), b.to(NPU), gamma.to(NPU), 1e-6)
    close(total, a + b)
    close(y, torch.nn.functional.rms_norm(a + b, (8,), gamma, 1e-6))


def test_swiglu_multiplies_by_silu_of_the_first_half() -> None:
    x = drawn(1, 2, 6)
    rows = [[float(r[i]) / (1 + math.exp(-float(r[i]))) * float(r[i + 3]) for i in range(3)] for r in x]
    close(torch_npu.npu_swiglu(x.to(NPU)), torch.tensor(rows))


def test_fast_gelu_is_the_sigmoid_form() -> None:
    x = drawn(1, 7)
    close(torch_npu.npu_fast_gelu(x.to(NPU)), torch.tensor([float(v) / (1 + math.exp(-1.702 * float(v))) for v in x]))


@pytest.mark.parametrize("neox", [True, False])
def test_rotary_embedding_turns_pairs_in_place(neox: bool) -> None:
    size, heads = 8, 2
    angles = torch.outer(torch.arange(20.0), 1 / 100 ** (torch.arange(0, size, 2) / size))
    positions, x = torch.tensor([3, 17, 0]), drawn(1, 3, heads * size)
    wanted = x.clone().view(3, heads, size)
    for row, position in enumerate(positions.tolist()):
        for head in range(heads):
            for i in range(size // 2):
                a, b = (i, i + size // 2) if neox else (2 * i, 2 * i + 1)
                u, v = float(x.view(3, heads, size)[row, head, a]), float(x.view(3, heads, size)[row, head, b])
                angle = float(angles[position, i])
                wanted[row, head, a] = u * math.cos(angle) - v * math.sin(angle)
                wanted[row, head, b] = v * math.cos(angle) + u * math.sin(angle)
    query, key = x.to(NPU), x[:, :size].contiguous().to(NPU)
    table = torch.cat((angles.cos(), angles.sin()), -1).to(NPU)
    torch_npu._npu_rotary_embedding(positions.to(NPU), query, key, size, table, neox)
    close(query, wanted.view(3, -1))
    close(key, wanted[:, 0])


def test_rotary_mul_is_transformers_rotation() -> None:
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    q, angles = drawn(1, 5, 2, 8), drawn(2, 5, 4)
    full = torch.cat((angles, angles), -1)
    wanted, _ = apply_rotary_pos_emb_vision(q, q, full.cos(), full.sin())
    cos, sin = (f.view(1, 5, 1, 8).to(NPU) for f in (full.cos(), full.sin()))
    close(torch_npu.npu_rotary_mul(q[None].to(NPU), cos, sin)[0], wanted)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.floats(0.05, 1.0), st.integers(0, 99))
def test_top_k_top_p_keeps_what_vllm_keeps(k: int, p: float, seed: int) -> None:
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    logits = drawn(seed, 3, 12)
    ks, ps = torch.full((3,), k), torch.full((3,), p)
    wanted = apply_top_k_top_p(logits.clone(), ks, ps)
    got = torch_npu.npu_top_k_top_p(logits.to(NPU), ps.to(NPU), ks.to(torch.int32).to(NPU)).cpu()
    assert torch.equal(got.isinf(), wanted.isinf())


# -- the cache and attention over it -----------------------------------------------------------------------------------


def test_reshape_and_cache_writes_each_token_to_its_slot_and_nothing_else() -> None:
    caches = [torch.full((3, 4, 2, size), 9.0).to(NPU) for size in (8, 6)]
    key, value = drawn(1, 3, 2, 8), drawn(2, 3, 2, 6)
    slots = torch.tensor([11, -1, 4], dtype=torch.int32).to(NPU)
    torch_npu._npu_reshape_and_cache(
        key=key.to(NPU), value=value.to(NPU), key_cache=caches[0], value_cache=caches[1], slot_indices=slots
    )
    for new, cache in ((key, caches[0]), (value, caches[1])):
        rows = cache.cpu().view(12, 2, -1)
        assert torch.equal(rows[11], new[0])
        assert torch.equal(rows[4], new[2])
        assert bool((rows[[i for i in range(12) if i not in (4, 11)]] == 9).all())


@pytest.mark.parametrize(
    ("slots", "why"), [(torch.tensor([1]), "int32"), (torch.tensor([12], dtype=torch.int32), "outside the cache")]
)
def test_reshape_and_cache_refuses_what_atb_refuses(slots: Any, why: str) -> None:
    cache = torch.zeros(3, 4, 2, 8).to(NPU)
    new = torch.zeros(1, 2, 8).to(NPU)
    with pytest.raises(RuntimeError, match=why):
        torch_npu._npu_reshape_and_cache(
            key=new, value=new, key_cache=cache, value_cache=cache, slot_indices=slots.to(NPU)
        )


def test_flash_attention_keeps_prompts_apart_and_leaves_padding() -> None:
    query, key, value = drawn(1, 8, 4, 8), drawn(2, 8, 2, 8), drawn(3, 8, 2, 6)
    out = torch.full((8, 4, 6), 5.0).to(NPU)
    mask = torch.ones(8, 8).triu(1).to(NPU)
    torch_npu._npu_flash_attention(
        query=query.to(NPU),
        key=key.to(NPU),
        value=value.to(NPU),
        mask=mask,
        seq_len=lengths_of(3, 4),
        scale_value=0.3,
        num_heads=4,
        num_kv_heads=2,
        out=out,
    )
    for part in (slice(0, 3), slice(3, 7)):
        close(out[part], attention_by_hand(query[part], key[part], value[part], 0.3, lambda i, j: j <= i))
    assert bool((out[7].cpu() == 5).all())


def test_flash_attention_obeys_the_mask_that_it_gets() -> None:
    query = drawn(1, 4, 1, 8)
    mask = torch.zeros(4, 4)
    mask[2, 0] = 1
    out = torch.empty(4, 1, 8).to(NPU)
    torch_npu._npu_flash_attention(
        query=query.to(NPU),
        key=query.to(NPU),
        value=query.to(NPU),
        mask=mask.to(NPU),
        seq_len=lengths_of(4),
        scale_value=1.0,
        num_heads=1,
        num_kv_heads=1,
        out=out,
    )
    close(out, attention_by_hand(query, query, query, 1.0, lambda i, j: (i, j) != (2, 0)))


def test_flash_attention_unpad_sees_all_of_its_own_sequence() -> None:
    query, key, value = (drawn(seed, 7, 2, 8) for seed in (1, 2, 3))
    out = torch.empty(7, 2, 8).to(NPU)
    torch_npu._npu_flash_attention_unpad(
        query=query.to(NPU),
        key=key.to(NPU),
        value=value.to(NPU),
        seq_len=lengths_of(5, 2),
        scale_value=0.3,
        num_heads=2,
        num_kv_heads=2,
        out=out,
    )
    for part in (slice(0, 5), slice(5, 7)):
        close(out[part], attention_by_hand(query[part], key[part], value[part], 0.3, lambda i, j: True))


def test_paged_attention_finds_its_blocks() -> None:
    plain, caches, table = paged(1, [6, 1, 9], 2, (8, 8))
    query = drawn(5, 3, 4, 8)
    out = torch.empty(3, 4, 8).to(NPU)
    torch_npu._npu_paged_attention(
        query=query.to(NPU),
        key_cache=caches[0],
        value_cache=caches[1],
        num_kv_heads=2,
        num_heads=4,
        scale_value=0.3,
        block_table=table,
        context_lens=lengths_of(6, 1, 9),
        out=out,
    )
    for row, (key, value) in enumerate(plain):
        close(out[row : row + 1], attention_by_hand(query[row : row + 1], key, value, 0.3, lambda i, j: True))


def test_paged_attention_mla_takes_values_from_the_keys() -> None:
    plain, caches, table = paged(1, [6, 9], 1, (10, 1))
    query = drawn(5, 2, 4, 10)
    out = torch.empty(2, 4, 7).to(NPU)
    torch_npu._npu_paged_attention_mla(
        query=query.to(NPU),
        key_cache=caches[0],
        num_kv_heads=1,
        num_heads=4,
        scale_value=0.3,
        block_table=table,
        context_lens=lengths_of(6, 9),
        mla_vheadsize=7,
        out=out,
    )
    for row, (key, _) in enumerate(plain):
        close(out[row : row + 1], attention_by_hand(query[row : row + 1], key, key[..., :7], 0.3, lambda i, j: True))


@pytest.mark.parametrize("compressed", [True, False])
def test_chunks_see_their_past_and_themselves_up_to_the_diagonal(compressed: bool) -> None:
    news, wholes = [3, 1, 5], [6, 4, 5]
    plain, caches, table = paged(2, wholes, 2, (8, 8))
    query = drawn(5, sum(news), 4, 8)
    out = torch.empty(sum(news), 4, 8).to(NPU)
    common = {
        "query": query.to(NPU),
        "key_cache": caches[0],
        "value_cache": caches[1],
        "block_table": table,
        "seq_len": lengths_of(*news),
        "context_lens": lengths_of(*wholes),
        "num_kv_heads": 2,
        "num_heads": 4,
        "scale_value": 0.3,
        "out": out,
    }
    if compressed:
        torch_npu._npu_flash_attention_qlens(mask=torch.ones(128, 128).triu(1).to(NPU), **common)
    else:
        positions = torch.cat([torch.arange(w - n, w) for n, w in zip(news, wholes, strict=True)])
        rows = (torch.ones(6, 6).triu(1) * -10000)[positions]
        torch_npu._npu_paged_attention_splitfuse(mask=rows.to(NPU), **common)
    start = 0
    for (key, value), new, whole in zip(plain, news, wholes, strict=True):
        past = whole - new
        part = slice(start, start + new)
        close(out[part], attention_by_hand(query[part], key, value, 0.3, lambda i, j, past=past: j <= i + past))
        start += new


def test_attention_wants_its_lengths_on_the_host() -> None:
    _, caches, table = paged(1, [6], 2, (8, 8))
    query = drawn(5, 1, 4, 8).to(NPU)
    with pytest.raises(RuntimeError, match="on the host"):
        torch_npu._npu_paged_attention(
            query=query,
            key_cache=caches[0],
            value_cache=caches[1],
            num_kv_heads=2,
            num_heads=4,
            scale_value=0.3,
            block_table=table,
            context_lens=lengths_of(6).to(NPU),
            out=query,
        )


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch_npu.npu_quant_matmul(1, 2),
        lambda: torch_npu.npu_never_heard_of,
        lambda: torch_npu.npu_format_cast(torch.zeros(2).to(NPU), 29),
        lambda: torch_npu.npu_rotary_mul(torch.zeros(2), 1, 1, "interleave"),
        lambda: torch_npu.atb.npu_multi_head_latent_attention(),
        lambda: torch.npu.NPUGraph(),
        lambda: torch.npu.never_heard_of,
        lambda: torch.npu.memory.MemPool(),
    ],
)
def test_what_is_not_emulated_is_refused(call: Any) -> None:
    with pytest.raises(NotImplementedError, match="not emulated"):
        call()


def test_experts_are_those_of_the_greatest_softmax_scores() -> None:
    logits = drawn(5, 6, 4)
    scores, experts, numbers = torch_npu.npu_moe_gating_top_k_softmax(logits.to(NPU), finished=None, k=2)
    for token in range(6):
        weights = softmax(logits[token].tolist())
        best = sorted(range(4), key=lambda expert: -weights[expert])[:2]
        assert experts[token].tolist() == best
        close(scores[token], torch.tensor([weights[expert] for expert in best]))
        assert numbers[token].tolist() == [token, token + 6]


@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_routed_tokens_are_what_each_of_their_experts_makes_of_them(tokens: int, k: int, seed: int) -> None:
    groups, hidden, out = 4, 6, 5
    x, matrices, scales = drawn(seed, tokens, hidden), drawn(seed + 1, groups, hidden, out), drawn(seed + 2, tokens, k)
    dice = torch.Generator().manual_seed(seed)
    experts = torch.stack([torch.randperm(groups, generator=dice)[:k] for _ in range(tokens)]).to(torch.int32)
    numbers = torch.arange(tokens * k, dtype=torch.int32).view(k, tokens).T.contiguous()
    rows, places, by_expert = torch_npu.npu_moe_init_routing(
        x.to(NPU), row_idx=numbers.to(NPU), expert_idx=experts.to(NPU), active_num=tokens
    )
    ends = torch_npu.npu_moe_compute_expert_tokens(by_expert, groups)
    assert ends.tolist() == [int((experts <= expert).sum()) for expert in range(groups)]
    (made,) = torch_npu.npu_grouped_matmul(
        x=[rows], weight=[matrices.to(NPU)], split_item=2, group_list_type=0, group_type=0, group_list=ends
    )
    got = torch_npu.npu_moe_finalize_routing(
        made, skip1=None, skip2=None, bias=None, scales=scales.to(NPU), expanded_src_to_dst_row=places,
        export_for_source_row=experts.to(NPU),
    )  # fmt: skip
    for token in range(tokens):
        parts = [scales[token, j] * (x[token] @ matrices[experts[token, j]]) for j in range(k)]
        close(got[token], torch.stack(parts).sum(0))


@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 2**20))
@settings(max_examples=30, deadline=None)
def test_deepseeks_gate_chooses_as_in_transformers(tokens: int, k: int, seed: int) -> None:
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    dice = torch.Generator().manual_seed(seed)
    config = DeepseekV3Config(
        hidden_size=256, n_routed_experts=256, n_group=8, topk_group=4, num_experts_per_tok=k, routed_scaling_factor=2.5
    )
    gate, logits = DeepseekV3TopkRouter(config), torch.randn(tokens, 256, generator=dice)
    with torch.no_grad():
        gate.weight.copy_(torch.eye(256))
        gate.e_score_correction_bias.copy_(torch.rand(256, generator=dice))  # not below 0, which stands for no choice
        chosen, scales = gate(logits)
    weights, experts, _ = torch_npu.npu_moe_gating_top_k(
        logits.to(NPU), k=k, bias=gate.e_score_correction_bias.to(NPU), k_group=4, group_count=8, group_select_mode=1,
        renorm=0, norm_type=1, routed_scaling_factor=2.5, eps=1e-20,
    )  # fmt: skip
    for token in range(tokens):
        right = dict(zip(chosen[token].tolist(), scales[token].tolist(), strict=True))
        got = dict(zip(experts[token].tolist(), weights[token].tolist(), strict=True))
        assert got == pytest.approx(right, abs=1e-6)


def test_what_is_not_emulated_of_the_experts_is_refused() -> None:
    x, ids = drawn(1, 2, 4).to(NPU), torch.zeros(2, 1, dtype=torch.int32).to(NPU)
    with pytest.raises(NotImplementedError, match="of 1 of 2 tokens"):
        torch_npu.npu_moe_init_routing(x, row_idx=ids, expert_idx=ids, active_num=1)
    with pytest.raises(NotImplementedError, match="finished"):
        torch_npu.npu_moe_gating_top_k_softmax(x, finished=ids, k=1)
    with pytest.raises(NotImplementedError, match="DeepSeek-V3's gate alone"):
        torch_npu.npu_moe_gating_top_k(x, k=1, bias=x[0], k_group=4, group_count=8, group_select_mode=1)
    with pytest.raises(NotImplementedError, match="npu_moe_distribute_dispatch"):
        torch_npu.npu_moe_distribute_dispatch(x)


def test_each_row_gets_its_own_adapter_and_rows_without_one_stay() -> None:
    indices = torch.tensor([1, -1, 0, 1])
    x, a, b = drawn(1, 4, 6), drawn(2, 2, 1, 3, 6), drawn(3, 2, 1, 5, 3)
    narrow, wide = torch.zeros(4, 3).to(NPU), torch.ones(4, 9).to(NPU)
    torch.ops._C.bgmv_shrink(x.to(NPU), a.to(NPU), indices.to(NPU), narrow, 0.5)
    torch.ops._C.bgmv_expand(narrow, b.to(NPU), indices.to(NPU), wide, 2, 5)
    wanted = torch.ones(4, 9)
    for row, adapter in enumerate(indices.tolist()):
        if adapter >= 0:
            wanted[row, 2:7] += b[adapter, 0] @ (a[adapter, 0] @ x[row]) * 0.5
    close(wide, wanted)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=3), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_latent_attention_in_parts_is_that_of_the_whole(lengths: list[tuple[int, int]], chunk: int) -> None:
    """Each sequence has tokens in the cache and new ones; the cache is read in chunks."""
    heads, sizes, block, scale = 2, (6, 4), 4, 0.3
    cached, new = [list(each) for each in zip(*lengths, strict=True)]
    _, caches, table = paged(3, [max(length, 1) for length in cached], 1, sizes, block)
    up = drawn(11, heads * 8, sizes[0])  # from latent to keys of width 5 and values of width 3
    queries, latent, rope = drawn(12, sum(new), heads, 9), drawn(13, sum(new), 1, 6), drawn(14, sum(new), 1, 4)

    def widened(tokens: Any, rotated: Any) -> tuple[Any, Any, Any]:
        both = (tokens.squeeze(1) @ up.T).view(-1, heads, 8)
        return both[..., :5], rotated.expand(-1, heads, -1), both[..., 5:]

    out, lse = torch.empty(sum(new), heads, 3).to(NPU), torch.empty(heads, sum(new)).to(NPU)
    common = {
        "q_nope": queries[..., :5].to(NPU), "q_rope": queries[..., 5:].to(NPU), "head_num": heads, "kv_head_num": heads,
        "qk_scale": scale, "kernel_type": "kernel_type_high_precision", "input_layout": "type_bsnd",
        "mask": torch.ones(512, 512).triu(1).to(NPU), "output": out, "softmax_lse": lse,
    }  # fmt: skip
    k_nope, k_rope, value = (part.to(NPU) for part in widened(latent, rope))
    torch_npu.atb.npu_ring_mla(
        **common, k_nope=k_nope, k_rope=k_rope, value=value, seqlen=lengths_of(*new), pre_out=None, prev_lse=None,
        mask_type="mask_type_triu", calc_type="calc_type_first_ring",
    )  # fmt: skip
    found: list[list[Any]] = [[] for _ in lengths]
    for start in range(0, max(cached), chunk):
        parts = [min(max(length - start, 0), chunk) for length in cached]
        loaded = [torch.empty(sum(parts), 1, size).to(NPU) for size in sizes]
        torch_npu.atb.npu_paged_cache_load(
            *caches, table, lengths_of(*parts).to(NPU), seq_starts=lengths_of(*[start] * len(parts)).to(NPU),
            key=loaded[0], value=loaded[1],
        )  # fmt: skip
        for sequence, part in enumerate(zip(*(each.cpu().split(parts) for each in loaded), strict=True)):
            found[sequence].append(part)
        k_nope, k_rope, value = (part.to(NPU) for part in widened(*(each.cpu() for each in loaded)))
        torch_npu.atb.npu_ring_mla(
            **common, k_nope=k_nope, k_rope=k_rope, value=value,
            seqlen=torch.stack([lengths_of(*new), lengths_of(*parts)]), pre_out=out, prev_lse=lse,
            mask_type="no_mask", calc_type="calc_type_default",
        )  # fmt: skip
    position = 0
    for sequence, (before, count) in enumerate(lengths):
        mine = slice(position, position + count)
        position += count
        pairs = [*found[sequence], (latent[mine], rope[mine])]
        whole = widened(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
        assert whole[0].shape[0] == before + count
        keys = torch.cat(whole[:2], dim=-1)
        wanted = attention_by_hand(queries[mine], keys, whole[2], scale, lambda i, j, n=before: j <= n + i)
        close(out[mine], wanted)
