"""More requests than the KV cache holds: some give their blocks up in mid-answer and are computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.emulated_npu.conftest import ASCEND, RECOVERY, make_prompt, transfer
from tests.emulated_npu.engine import Engine

pytestmark = pytest.mark.emulated
SCHEDULERS: dict[str, dict[str, Any]] = {
    "vllm": {"scheduler_cls": f"{RECOVERY}.RecoveringScheduler", "enable_chunked_prefill": True},
    "ascend": {"additional_config": ASCEND},
}
BLOCKS = 10  # one is vLLM's own; five prompts of two blocks and a third one for the answer do not fit


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_preempted_requests_are_answered_right(
    models: Path, worker: Any, reference: Any, tmp_path: Path, scheduler: str
) -> None:
    options = {
        "model": str(models / "qwen2"), "max_model_len": 1024, "max_num_seqs": 8, "max_num_batched_tokens": 1024,
        "num_gpu_blocks_override": BLOCKS,
        "kv_transfer_config": transfer(worker, tag=f"preemption-{scheduler}"), **SCHEDULERS[scheduler],
    }  # fmt: skip
    prompts = [make_prompt(f"preempted {number}", 250) for number in range(5)]
    with Engine(options, tmp_path / "engine.log") as engine:
        for turn in ("computed", "loaded"):
            before = engine.metrics()
            answers = engine.generate(prompts, tokens=20)
            after = engine.metrics()
            assert after["resumed"] > before["resumed"], turn
            for prompt, answer in zip(prompts, answers, strict=True):
                assert not answer.differs(reference(prompt, 20)), turn
            engine.forget()
        assert after["loaded_blocks"] >= len(prompts), "of each prompt its first block"
