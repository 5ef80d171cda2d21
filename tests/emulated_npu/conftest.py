"""What the tests on the emulated NPU share: models, prompts, reference answers, a DataSystem."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_npu.engine import Answer

if importlib.util.find_spec("torch_npu") is None:  # `bash scripts/test.sh emulated` brings it
    collect_ignore_glob = ["test_*.py"]

MODELS = Path(__file__).parents[2] / "build" / "models"


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder with the tiny models."""
    assert (MODELS / "qwen2" / "config.json").exists(), "scripts/make_models.py makes them"
    return MODELS


def make_prompt(name: str, tokens: int) -> list[int]:
    """Return token ids that no other name has."""
    numbers = random.Random(name)
    return [numbers.randrange(10, 1000) for _ in range(tokens)]


@pytest.fixture(scope="session")
def reference(models: Path) -> Any:
    """A function from prompts to the answers that transformers computes, on the CPU and with no cache of blocks."""
    import torch
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(models / "qwen2", torch_dtype=torch.float32, attn_implementation="eager")

    def answer(prompt: list[int], tokens: int = 8) -> Answer:
        with torch.inference_mode():
            ids, scores, past, fed = [], [], None, torch.tensor([prompt])
            for _ in range(tokens):
                out = model(fed, past_key_values=past, use_cache=True)
                past, row = out.past_key_values, out.logits[0, -1].log_softmax(-1)
                ids.append(int(row.argmax()))
                scores.append(float(row.max()))
                fed = torch.tensor([[ids[-1]]])
        return Answer(tuple(ids), tuple(scores))

    return answer


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real DataSystem: etcd and one worker, which a test may kill and start again."""
    from workshop import datasystem

    home = tmp_path_factory.mktemp("datasystem")
    (home / "worker").mkdir()
    with datasystem.etcd(home) as store, datasystem.worker(home / "worker", store.address, 256) as daemon:
        yield daemon


def transfer(worker: Any, **extra: Any) -> dict[str, Any]:
    """Return ``kv_transfer_config`` of an engine that loads and saves, and whose answers wait for their blocks."""
    return {
        "kv_connector": "YuanRongConnector",
        "kv_connector_module_path": "vllm_ascend.distributed.yuanrong",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "worker_address": worker.address,
            "save_mode": "sync-last",
            "reset_forgets": False,
            **extra,
        },
    }


RECOVERY = "vllm_ascend.distributed.yuanrong.recovery"
#: ``additional_config`` for AscendScheduler. It puts its own scheduler in the place of ``--scheduler-cls``.
ASCEND = {
    "ascend_scheduler_config": {"enabled": True, "scheduler_cls": f"{RECOVERY}.RecoveringAscendScheduler"},
}
