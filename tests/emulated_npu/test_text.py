"""Qwen2 on NPUPlatform: NPUWorker, NPUModelRunner, Ascend attention, and the connector's NPU transport."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_npu import mutations
from tests.emulated_npu.conftest import ASCEND, RECOVERY, make_prompt, transfer
from tests.emulated_npu.engine import Engine
from tests.integration.engines.rig import eventually

pytestmark = pytest.mark.emulated
BLOCK = 128


def options(models: Path, **more: Any) -> dict[str, Any]:
    return {"model": str(models / "qwen2"), "max_model_len": 1024, "max_num_seqs": 4,
            "max_num_batched_tokens": 1024, **more}  # fmt: skip


@pytest.fixture(scope="module")
def engine(models: Path, worker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with vLLM's scheduler and the connector; chunks of 256 tokens, so that long prompts are chunked."""
    shares = transfer(worker, probe_interval_ms=200, breaker_failures=2)
    chosen = options(models, max_num_batched_tokens=256, kv_transfer_config=shares,
                     scheduler_cls=f"{RECOVERY}.RecoveringScheduler", enable_chunked_prefill=True)  # fmt: skip
    with Engine(chosen, tmp_path_factory.mktemp("text") / "engine.log") as started:
        yield started


@pytest.fixture(scope="module")
def ascend(models: Path, worker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with AscendScheduler, which does not chunk, and the connector; a prompt of 768 tokens is a step."""
    chosen = options(models, kv_transfer_config=transfer(worker, probe_interval_ms=200), max_num_batched_tokens=768,
                     additional_config=ASCEND)  # fmt: skip
    with Engine(chosen, tmp_path_factory.mktemp("ascend") / "engine.log") as started:
        yield started


def test_what_serves_is_what_an_npu_host_runs(engine: Engine) -> None:
    assert engine.facts == {
        "platform": "NPUPlatform",
        "scheduler": "RecoveringScheduler",
        "worker": "NPUWorker",
        "runner": "NPUModelRunner",
        "attention": "AscendAttentionBackendImpl",
        "cache": ["tuple", ["npu:0", "npu:0"]],
        "widths": [64, 64],
        "model": "Qwen2ForCausalLM",
    }


def test_answers_are_those_of_the_reference_implementation(engine: Engine, reference: Any) -> None:
    """Whole prompts, chunks, several requests at once, single tokens: each attention state of the back end."""
    prompts = [make_prompt(f"reference {tokens}", tokens) for tokens in (5, 127, 128, 129, 700)]
    for prompt, answer in zip(prompts, engine.generate(prompts), strict=True):
        assert not answer.differs(reference(prompt))


def test_blocks_come_back_from_the_datasystem_and_answers_stay(engine: Engine, reference: Any) -> None:
    prompt = make_prompt("back", 3 * BLOCK + 40)
    before = engine.metrics()
    first = engine.generate([prompt])[0]
    saved = engine.metrics()
    assert saved["saved_blocks"] - before["saved_blocks"] == 3
    engine.forget()
    again = engine.generate([prompt])[0]
    after = engine.metrics()
    assert after["loaded_blocks"] - saved["loaded_blocks"] == 3
    assert after["matched_tokens"] - saved["matched_tokens"] == 3 * BLOCK
    assert not first.differs(reference(prompt))
    assert not again.differs(first)


@pytest.mark.parametrize("name", [mistake.__name__ for mistake in mutations.WRONG])
def test_a_broken_connector_is_found_by_its_answers(engine: Engine, reference: Any, name: str) -> None:
    prompt = make_prompt(name, 3 * BLOCK + 40)
    engine.generate([make_prompt(f"{name} before", 5 * BLOCK)])  # leaves other bytes in the blocks that come next
    engine.forget()
    engine.call("mutate", name=name)
    try:
        assert not engine.generate([prompt])[0].differs(reference(prompt)), "computing is not broken"
        engine.forget()
        before = engine.metrics()["loaded_blocks"]
        broken = engine.generate([prompt])[0]
        assert engine.metrics()["loaded_blocks"] - before == 3, "the broken blocks were loaded"
    finally:
        engine.call("mend")
        engine.forget()
    assert broken.differs(reference(prompt))


@pytest.mark.parametrize("fault", ["evicted", "raising"])
def test_a_load_that_fails_is_a_recompute(engine: Engine, reference: Any, fault: str) -> None:
    """An eviction between lookup and load, and an error that nobody thought of."""
    prompt = make_prompt(fault, 3 * BLOCK + 40)
    engine.generate([prompt])
    engine.forget()
    before = engine.metrics()
    engine.call("mutate", name=fault)
    try:
        answer = engine.generate([prompt])[0]
    finally:
        engine.call("mend")
    after = engine.metrics()
    assert after["recomputed_requests"] - before.get("recomputed_requests", 0) == 1
    assert after["loaded_blocks"] == before["loaded_blocks"]
    assert not answer.differs(reference(prompt))


def test_ascend_scheduler_serves_the_same_answers(ascend: Engine, reference: Any) -> None:
    assert ascend.facts["scheduler"] == "RecoveringAscendScheduler"
    prompts = [make_prompt(f"reference {tokens}", tokens) for tokens in (5, 127, 128, 129, 700)]
    for prompt, answer in zip(prompts, ascend.generate(prompts), strict=True):
        assert not answer.differs(reference(prompt))


def test_ascend_scheduler_loads_and_goes_on_from_a_prefix(ascend: Engine, reference: Any) -> None:
    """A loaded prefix with several tokens behind it is the back end's state for a cache hit without chunks."""
    prompt = make_prompt("ascend", 3 * BLOCK + 40)
    ascend.generate([prompt])
    ascend.forget()
    before = ascend.metrics()["loaded_blocks"]
    answers = ascend.generate([prompt, [*prompt[: 2 * BLOCK], *make_prompt("other end", 70)]])
    assert ascend.metrics()["loaded_blocks"] - before == 5
    assert not answers[0].differs(reference(prompt))
    assert not answers[1].differs(reference([*prompt[: 2 * BLOCK], *make_prompt("other end", 70)]))


def test_ascend_scheduler_gives_up_a_prompt_longer_than_a_step_and_answers_later_ones(
    ascend: Engine, reference: Any
) -> None:
    """vllm-ascend tells nobody that it did: the client has to leave. The connector forgets the request all the same."""
    prompt = make_prompt("longer than a step", 900)
    assert ascend.call("leave", prompt=prompt, steps=2) == ["FINISHED_IGNORED", "FINISHED_ABORTED"]
    assert not ascend.generate([prompt[:700]])[0].differs(reference(prompt[:700]))


def test_a_prompt_prefilled_on_one_engine_is_decoded_on_the_other(
    engine: Engine, ascend: Engine, reference: Any
) -> None:
    prompt = make_prompt("from one to the other", 4 * BLOCK + 9)
    engine.generate([prompt], tokens=1)
    before = ascend.metrics()["loaded_blocks"]
    answer = ascend.generate([prompt])[0]
    assert ascend.metrics()["loaded_blocks"] - before == 4
    assert not answer.differs(reference(prompt))


def test_a_prefill_engine_set_up_by_the_tutorials_variables_starts_without_a_datasystem_and_never_loads(
    models: Path, worker: Any, ascend: Engine, reference: Any, tmp_path: Path
) -> None:
    """It needs no scheduler that recovers. Credentials come from a file and the environment, figures go nowhere."""
    token, log, figures = tmp_path / "token", tmp_path / "engine.log", tmp_path / "resource.log"
    token.write_text("this is never logged\n")
    shares = transfer(worker, token_file=str(token), worker_resource_log=str(figures))
    shares["kv_role"] = "kv_producer"
    for name in ("worker_address", "save_mode"):
        del shares["kv_connector_extra_config"][name]
    tutorial = {
        "DS_WORKER_ADDR": worker.address, "USING_PREFIX_CONNECTOR": "0", "YUANRONG_DS_TOKEN": "the file's wins",
        "YUANRONG_DS_ACCESS_KEY": "nor is this", "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "no folder"),
    }  # fmt: skip
    prompt = make_prompt("of the tutorial", 3 * BLOCK + 9)
    worker.kill()
    try:
        with Engine(options(models, kv_transfer_config=shares), log, **tutorial) as prefill:
            assert prefill.facts["scheduler"] == "Scheduler"
            assert not prefill.generate([prompt])[0].differs(reference(prompt))
            worker.start()
            figures.write_text("no figures\n")

            def is_shared() -> None:
                prefill.forget()
                assert not prefill.generate([prompt])[0].differs(reference(prompt))
                ascend.forget()
                before = ascend.metrics()["loaded_blocks"]
                assert not ascend.generate([prompt])[0].differs(reference(prompt))
                assert ascend.metrics()["loaded_blocks"] - before == 3

            eventually(is_shared)
            assert prefill.metrics() == {"resumed": 0}
    finally:
        worker.ensure()
    written = log.read_text()
    assert "no metrics: " in written
    assert "this is never logged" not in written
    assert "nor is this" not in written


def test_a_request_whose_salt_has_no_encoding_is_computed_and_not_shared(engine: Engine, reference: Any) -> None:
    """A lookup that fails for a reason that nobody thought of is a miss."""
    prompt = make_prompt("salted", BLOCK + 9)
    before = engine.metrics()
    for _ in range(2):
        answer = engine.generate([{"prompt_token_ids": prompt, "cache_salt": "\ud800"}])[0]
        assert not answer.differs(reference(prompt))
        engine.forget()
    assert engine.metrics() == before


def test_a_dead_worker_costs_hits_and_no_answer(engine: Engine, worker: Any, reference: Any) -> None:
    prompt = make_prompt("outage", 3 * BLOCK + 40)
    engine.generate([prompt])
    engine.forget()
    loaded = engine.metrics()["loaded_blocks"]
    worker.kill()
    try:
        answer = engine.generate([prompt])[0]
        assert engine.metrics()["loaded_blocks"] == loaded
        assert not answer.differs(reference(prompt))
    finally:
        worker.start()

    def loads_again() -> None:
        """Both sides' breakers are closed: the first request saves anew, a later one loads."""
        engine.forget()
        before = engine.metrics()["loaded_blocks"]
        assert not engine.generate([prompt])[0].differs(reference(prompt))
        assert engine.metrics()["loaded_blocks"] - before == 3

    eventually(loads_again)
