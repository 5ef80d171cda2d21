"""Multi-head latent attention, whose cache is a pair of two widths, and experts: a tiny DeepSeek-V3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.emulated_npu.conftest import RECOVERY, make_prompt, transfer
from tests.emulated_npu.engine import Answer, Engine

pytestmark = pytest.mark.emulated
# vllm-ascend's latent attention reads the cosines of this kind of rotation alone.
YARN = {
    "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 32.0, "beta_slow": 1.0,
    "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A DeepSeek-V3 of a dense layer and two with experts: its folder, and the answers of transformers.

    It has the published one's 256 experts in eight groups: what vllm-ascend chooses experts with knows no other number.
    """
    import make_models
    import torch
    from transformers import AutoTokenizer, DeepseekV3Config, DeepseekV3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(models / "qwen2")
    config = DeepseekV3Config(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, moe_intermediate_size=32,
        num_hidden_layers=3, first_k_dense_replace=1, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=None,
        kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32, n_routed_experts=256, n_group=8,
        topk_group=4, num_experts_per_tok=8, n_shared_experts=1, routed_scaling_factor=2.5, norm_topk_prob=True,
        topk_method="noaux_tc", scoring_func="sigmoid", moe_layer_freq=1, max_position_embeddings=2048,
        rope_scaling=dict(YARN), tie_word_embeddings=False, torch_dtype="float32",
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    made = DeepseekV3ForCausalLM._from_config(config, attn_implementation="eager").eval()
    make_models.fill(made, tokenizer)
    dice = torch.Generator().manual_seed(3)
    for layer in made.model.layers[1:]:
        layer.mlp.gate.e_score_correction_bias.copy_(torch.rand(256, generator=dice) / 4)
    folder = tmp_path_factory.mktemp("deepseek")
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def answer(prompt: list[int], tokens: int = 8) -> Answer:
        ids, scores = list(prompt), []
        with torch.inference_mode():
            for _ in range(tokens):
                row = made(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
                ids.append(int(row.argmax()))
                scores.append(float(row.max()))
        return Answer(tuple(ids[len(prompt) :]), tuple(scores))

    return folder, answer


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"max_num_batched_tokens": 1024}, id="whole prompts"),
        # The kernel that puts attention to earlier chunks together (npu_ring_mla) is used with this setting alone.
        pytest.param(
            {"max_num_batched_tokens": 128, "additional_config": {"chunked_prefill_for_mla": True}}, id="in chunks"
        ),
    ],
)
def test_latent_blocks_come_back_and_answers_are_the_references(
    model: tuple[Path, Any], worker: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder, reference = model
    options = {
        "model": str(folder), "max_model_len": 1024, "max_num_seqs": 2, **settings,
        "scheduler_type": f"{RECOVERY}.RecoveringScheduler", "kv_transfer_config": transfer(worker),
    }  # fmt: skip
    prompt = make_prompt("latent", 2 * 128 + 40)
    with Engine(options, tmp_path / "engine.log") as engine:
        assert engine.facts["attention"] == "AscendMLAImpl"
        assert engine.facts["model"] == "CustomDeepseekV3ForCausalLM"
        assert engine.facts["widths"] == [64, 16], "latent and rope"
        first = engine.generate([prompt])[0]
        engine.forget()
        before = engine.metrics()["loaded_blocks"]
        again = engine.generate([prompt])[0]
        loaded = engine.metrics()["loaded_blocks"] - before
    assert not first.differs(reference(prompt))
    assert loaded == 2
    assert not again.differs(first)
