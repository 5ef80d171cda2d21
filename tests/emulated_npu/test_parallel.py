"""Tensor parallel 2: two workers, collectives of the emulated HCCL, and the connector's agreement between ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.emulated_npu.conftest import ASCEND, make_prompt, transfer
from tests.emulated_npu.engine import Engine

pytestmark = pytest.mark.emulated
#: AscendScheduler leaves chunked prompts to vLLM's.
CHUNKED = {"enable_chunked_prefill": True}


def test_two_ranks_load_what_two_ranks_saved(models: Path, worker: Any, reference: Any, tmp_path: Path) -> None:
    options = {
        "model": str(models / "qwen2"), "max_model_len": 1024, "max_num_seqs": 2, "tensor_parallel_size": 2,
        "distributed_executor_backend": "mp", "kv_transfer_config": transfer(worker),
        "additional_config": {"ascend_scheduler_config": {**ASCEND["ascend_scheduler_config"], **CHUNKED}},
    }  # fmt: skip
    prompt = make_prompt("two ranks", 3 * 128 + 40)
    with Engine(options, tmp_path / "engine.log", EMULATED_NPU_MEMORY_MB="256") as engine:
        first = engine.generate([prompt])[0]
        engine.forget()
        before = engine.metrics()
        again = engine.generate([prompt])[0]
        after = engine.metrics()
        engine.forget()
        engine.call("mutate", name="evicted_on_a_rank")
        lost = engine.generate([prompt])[0]
        engine.call("mend")
        recomputed = engine.metrics()["recomputed_requests"]
    assert not first.differs(reference(prompt))
    assert not again.differs(first)
    assert after["matched_tokens"] - before.get("matched_tokens", 0) == 3 * 128
    assert after.get("recomputed_requests", 0) == 0
    assert not lost.differs(first)
    assert recomputed == 1, "what one rank could not load is computed on both"
