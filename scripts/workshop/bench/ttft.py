"""Time to first token: a prompt found in the DataSystem against the same prompt in vLLM's own prefix cache.

Two real engines serve the same prompts in turn: plain vLLM, whose prefix cache has the whole prompt, and vLLM with the
connector, whose prefix cache is emptied before each request, so that every block comes from the DataSystem. Both
compute what no cache may give, the prompt's last block, and the first token of the answer.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

from workshop.bench.figures_of_a_run import Figure, Goal
from workshop.bench.statistics import estimate, measure, paired_ratio
from yrpd.errors import VerificationError

AT_MOST = Goal(1.25, at_least=False)
LENGTHS = (1024, 2048, 4096, 8192)
BLOCK_SIZE = 128
_VOCABULARY = 1024
#: 89 million parameters, 12 KiB of KV per token: large enough that a step's own cost does not hide the loads.
MODEL = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": _VOCABULARY, "hidden_size": 768,
    "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
    "max_position_embeddings": 16384, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
}  # fmt: skip
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "all",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    "TORCHDYNAMO_DISABLE": "1",
}


def figures(address: str, rounds: int, folder: Path) -> list[Figure]:
    """Measure all lengths.

    Args:
        address: DataSystem worker.
        rounds: Rounds of each comparison.
        folder: Empty folder for the model's configuration; its weights are made up by vLLM.

    Raises:
        VerificationError: An answer differs, or a prompt was not found as a whole.
    """
    (folder / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(_VOCABULARY)}, unk_token="w0"))  # noqa: S106 - a word
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(folder)  # noqa: S106 - a word
    os.environ.update(_ENVIRONMENT)
    plain = _engine(folder)
    found = _engine(
        folder,
        scheduler_cls="vllm_ascend.distributed.yuanrong.recovery.RecoveringScheduler",
        kv_transfer_config={
            "kv_connector": "YuanRongConnector",
            "kv_connector_module_path": "vllm_ascend.distributed.yuanrong",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {
                "worker_address": address, "save_mode": "sync-last", "sync_save_timeout_ms": 60000, "tag": "ttft",
                "reset_forgets": False,  # what is measured is finding it in the DataSystem
            },
        },
    )  # fmt: skip
    results: list[Figure] = []
    for length in LENGTHS:
        draw = random.Random(length)  # noqa: S311 - prompts, not secrets
        prompt = [draw.randrange(_VOCABULARY) for _ in range(length)]
        expected = _answer(plain, prompt, 0)
        if _answer(found, prompt, 0) != expected:
            raise VerificationError("The engine with the connector answers otherwise before anything was loaded.")
        taken = measure(
            {"local": _timed(plain, prompt, expected), "datasystem": _timed(found, prompt, expected, forget=True)},
            rounds,
        )
        point = f"{length} tokens"
        ratio = paired_ratio(taken["datasystem"], taken["local"])
        results.append(Figure("TTFT, DataSystem hit / local prefix hit", "length", point, ratio, goal=AT_MOST))
        for arm, title in (("local", "TTFT, local prefix hit"), ("datasystem", "TTFT, DataSystem hit")):
            results.append(Figure(title, "length", point, estimate(taken[arm]).scaled(1e3), "ms"))
    return results


def _engine(folder: Path, **more: Any) -> LLM:
    return LLM(
        model=str(folder),
        load_format="dummy",
        dtype="bfloat16",
        max_model_len=max(LENGTHS) + BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        enable_prefix_caching=True,
        enforce_eager=True,
        disable_log_stats=True,
        **more,
    )


def _answer(engine: LLM, prompt: list[int], cached: int) -> list[int]:
    """Return the first token; see that exactly ``cached`` tokens of the prompt were not computed."""
    params = SamplingParams(max_tokens=1, temperature=0, detokenize=False)
    output = engine.generate([TokensPrompt(prompt_token_ids=prompt)], params, use_tqdm=False)[0]
    if (output.num_cached_tokens or 0) != cached:
        raise VerificationError(
            f"{output.num_cached_tokens} of {len(prompt)} prompt tokens came from a cache instead of {cached}."
        )
    return list(output.outputs[0].token_ids)


def _timed(engine: LLM, prompt: list[int], expected: list[int], *, forget: bool = False) -> Callable[[int], float]:
    def arm(_: int) -> float:
        if forget:
            engine.reset_prefix_cache()
        begin = time.perf_counter()
        answer = _answer(engine, prompt, len(prompt) - BLOCK_SIZE)
        seconds = time.perf_counter() - begin
        if answer != expected:
            raise VerificationError(f"A prompt of {len(prompt)} tokens was answered otherwise when it was found.")
        return seconds

    return arm
