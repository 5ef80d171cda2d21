"""What cannot work is refused when the engine starts, with a message that names the setting or what to change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_npu.conftest import ASCEND, RECOVERY
from tests.emulated_npu.engine import MARK, environment

pytestmark = pytest.mark.emulated
SCRIPT = Path(__file__).with_name("refusing.py")
#: Nothing listens there: no start gets as far as to ask.
ADDRESS = "127.0.0.1:1"


def shared(role: str = "kv_both", **extra: Any) -> dict[str, Any]:
    """Return options of an engine with the connector."""
    transfer = {
        "kv_connector": "YuanRongConnector",
        "kv_connector_module_path": "vllm_ascend.distributed.yuanrong",
        "kv_role": role,
        "kv_connector_extra_config": {"worker_address": ADDRESS, **extra},
    }
    return {"kv_transfer_config": transfer, "scheduler_cls": f"{RECOVERY}.RecoveringScheduler"}


def ascend(**options: Any) -> dict[str, Any]:
    """Return options of an engine with settings of AscendScheduler."""
    chosen = {**ASCEND["ascend_scheduler_config"], **options}
    # Read anew: the settings of a process's first engine would be taken for all of them.
    return {**shared(), "additional_config": {"ascend_scheduler_config": chosen, "refresh": True}}


#: What is wrong -> options of the engine, environment of the start, and what the refusal says.
STARTS: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "no address": (shared(worker_address=""), {}, "worker_address: set it in kv_connector_extra_config or in"),
    "no port": (shared(worker_address="host"), {}, "worker_address: expected 'host:port' or '[ipv6]:port', got 'host'"),
    "port out of range": (shared(worker_address="host:70000"), {}, "worker_address: port 70000 is not in 1..65535"),
    "unknown key": (shared(tags="x"), {}, "kv_connector_extra_config: unknown key 'tags'"),
    "wrong type": (shared(load_threads=True), {}, "load_threads: expected int, got bool"),
    "unknown choice": (shared(save_mode="never"), {}, "save_mode: expected one of auto, sync-last, async, got 'never'"),
    "tag with a blank": (shared(tag="a b"), {}, "tag: at most 128 characters of"),
    "no thread": (shared(load_threads=0), {}, "load_threads: must be at least 1, got 0"),
    "negative time": (shared(ttl_seconds=-1), {}, "ttl_seconds: must not be negative, got -1"),
    "neither loads nor saves": (shared("kv_consumer", load=False), {}, "load: a kv_consumer that does not load does"),
    "no file of that name": (shared(token_file="/nowhere/token"), {}, "token_file: cannot read /nowhere/token"),
    "no file in the environment": (
        shared(), {"YUANRONG_DS_SECRET_KEY_FILE": "/nowhere/key"}, "secret_key_file: cannot read /nowhere/key",
    ),
    "a scheduler that cannot recover": (
        {**shared(), "scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"}, {},
        "this engine's scheduler cannot recover from a failed load",
    ),
    "asynchronous scheduling": ({**shared(), "async_scheduling": True}, {}, "cannot load with --async-scheduling"),
    "EAGLE": (
        {**shared(), "speculative_config": {"method": "eagle", "model": "MODEL", "num_speculative_tokens": 1}}, {},
        "cannot load with EAGLE",
    ),
    "AscendScheduler's policy": (ascend(policy="priority"), {}, "only supports fcfs policy"),
    "AscendScheduler in several steps": (ascend(num_scheduler_steps=2), {}, "doesn't support multi-step"),
    "AscendScheduler's deltas": (ascend(send_delta_data=True), {}, "doesn't support send_delta_data"),
    "AscendScheduler's delay": (ascend(delay_factor=0.5), {}, "doesn't support scheduler_delay_factor"),
    # The last one: its connector exists by then, and vLLM makes one for all engines of a process.
    "a transport for other memory": (
        {**shared(transport="host", metrics=False), "additional_config": {"refresh": True}}, {},
        "transport 'host' cannot reach KV caches on 'npu'; use 'npu'",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def refusals(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name -> what ended the start: all in one process, and what its children wrote."""
    model = str(models / "qwen2")
    starts = [
        {
            "options": {"model": model, "max_model_len": 512, "max_num_batched_tokens": 512, **options},
            "variables": variables,
        }
        for options, variables, _ in STARTS.values()
    ]
    given = json.dumps(starts).replace("MODEL", model)
    log = tmp_path_factory.mktemp("refused") / "engine.log"
    with log.open("w") as stderr:
        done = subprocess.run(
            [sys.executable, str(SCRIPT)], input=given, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False,
            env=environment(), cwd=SCRIPT.parents[2], timeout=900,
        )  # fmt: skip
    written = log.read_text() + done.stdout
    lines = [json.loads(line[len(MARK) :]) for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert len(lines) == len(STARTS), written[-4000:]
    found = dict(zip(STARTS, lines, strict=True))
    # Its worker is a process of its own, whose error vLLM writes and does not carry over.
    found["asynchronous scheduling"] += written
    return found


@pytest.mark.parametrize("wrong", STARTS)
def test_a_start_that_cannot_work_is_refused_with_what_to_change(wrong: str, refusals: dict[str, str]) -> None:
    assert STARTS[wrong][2] in refusals[wrong]
