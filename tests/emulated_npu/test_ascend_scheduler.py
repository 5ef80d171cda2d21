"""AscendScheduler with what few engines switch on: LoRA adapters, events of the KV cache, settings of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm_ascend.distributed.yuanrong.announcement import announcement_key

from tests.emulated_npu.conftest import ASCEND, make_prompt, transfer
from tests.emulated_npu.engine import Answer, Engine
from tests.integration.engines.rig import eventually
from tests.integration.engines.test_load_faults import put

pytestmark = pytest.mark.emulated
BLOCK = 128
RANK, ALPHA = 8, 32


@pytest.fixture(scope="module")
def adapters(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of the queries and values."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((models / "qwen2" / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    outs = {"q_proj": hidden, "v_proj": hidden // heads * config["num_key_value_heads"]}
    folders = {}
    for seed, name in enumerate(("first", "second")):
        dice = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in range(config["num_hidden_layers"]):
            for module, out in outs.items():
                stem = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_"
                tensors[f"{stem}A.weight"] = torch.randn(RANK, hidden, generator=dice) / hidden**0.5
                tensors[f"{stem}B.weight"] = torch.randn(out, RANK, generator=dice) / RANK**0.5
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        folders[name].mkdir()
        save_file(tensors, folders[name] / "adapter_model.safetensors")
        description = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "target_modules": [*outs]}
        (folders[name] / "adapter_config.json").write_text(json.dumps(description))
    return folders


@pytest.fixture(scope="module")
def adapted(models: Path, adapters: dict[str, Path]) -> Any:
    """A function from an adapter and a prompt to the answer of the model with the adapter merged into its weights."""
    import torch
    from safetensors.torch import load_file
    from transformers import Qwen2ForCausalLM

    def answer(name: str | None, prompt: list[int], tokens: int = 8) -> Answer:
        model = Qwen2ForCausalLM.from_pretrained(
            models / "qwen2", torch_dtype=torch.float32, attn_implementation="eager"
        )
        tensors = {} if name is None else load_file(adapters[name] / "adapter_model.safetensors")
        ids, scores = list(prompt), []
        with torch.inference_mode():
            for key in (key for key in tensors if key.endswith("lora_A.weight")):
                module = model.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                module.weight += tensors[key.replace("lora_A", "lora_B")] @ tensors[key] * (ALPHA / RANK)
            for _ in range(tokens):
                row = model(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
                ids.append(int(row.argmax()))
                scores.append(float(row.max()))
        return Answer(tuple(ids[len(prompt) :]), tuple(scores))

    return answer


TAG = "options"
PROMPT = make_prompt("with an adapter", 2 * BLOCK + 40)


def options(models: Path, worker: Any, **more: Any) -> dict[str, Any]:
    return {
        "model": str(models / "qwen2"), "max_model_len": 1024, "max_num_seqs": 4, "max_num_batched_tokens": 1024,
        "additional_config": ASCEND, "kv_transfer_config": transfer(worker, tag=TAG), **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def engine(models: Path, worker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that serves one adapter at a time; a request of another one waits for its turn.

    In the place of announcements it finds what some other program left there.
    """
    put(worker, {announcement_key(TAG, "kv_producer"): b"no JSON", announcement_key(TAG, "kv_consumer"): b"[]"})
    home = tmp_path_factory.mktemp("adapted")
    chosen = options(models, worker, enable_lora=True, max_loras=1, max_lora_rank=RANK)
    with Engine(chosen, home / "engine.log") as started:
        yield started


def test_blocks_of_one_adapter_are_no_hits_of_another(engine: Engine, adapters: dict[str, Path], adapted: Any) -> None:
    names = ["first", "second", None]
    folders = [None if name is None else str(adapters[name]) for name in names]
    right = [adapted(name, PROMPT) for name in names]
    assert right[0].differs(right[1])
    assert right[0].differs(right[2])
    for name, folder, answer in zip(names, folders, right, strict=True):
        before = engine.metrics()["matched_tokens"]
        got = engine.generate([PROMPT], adapters=[folder])[0]
        assert engine.metrics()["matched_tokens"] == before, f"{name} found blocks of another adapter"
        assert not got.differs(answer), name
    engine.forget()
    before = engine.metrics()["loaded_blocks"]
    together = engine.generate([PROMPT] * 3, adapters=folders)
    assert engine.metrics()["loaded_blocks"] - before == 3 * 2
    for name, got, answer in zip(names, together, right, strict=True):
        assert not got.differs(answer), name


def test_blocks_of_an_engine_with_other_settings_are_misses_and_a_warning(
    models: Path, worker: Any, engine: Engine, reference: Any, tmp_path: Path
) -> None:
    """The other setting is a way of speculation; its proposals are another matter, and hardly made for such prompts."""
    speculation = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
    prompt, log = make_prompt("speculated", BLOCK + 20) * 2, tmp_path / "engine.log"
    events = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"ipc://{tmp_path}/events"}
    right = reference(prompt, 24)
    engine.generate([PROMPT])
    chosen = options(models, worker, speculative_config=speculation, kv_events_config=events)
    with Engine(chosen, log) as other:
        other.generate([PROMPT])
        assert other.metrics()["matched_tokens"] == 0, "these are blocks of an engine with other settings"
        computed = other.generate([prompt], tokens=24)[0]
        other.forget()
        loaded = other.generate([prompt], tokens=24)[0]
        assert other.metrics()["loaded_blocks"] == 2

        def warned() -> None:
            other.metrics()  # what the engine writes comes with an answer
            assert "has another KV namespace" in log.read_text()

        eventually(warned)
    assert computed.ids == loaded.ids == right.ids
    (warning,) = re.findall("has another KV namespace.*They differ in (.*?) ", log.read_text())
    assert warning == "config_digest", "which holds the way of speculation"
