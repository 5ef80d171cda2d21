"""Many requests on a KV cache that is too small: requests are preempted, and answers stay plain vLLM's."""

from __future__ import annotations

import random
import threading
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from yrpd.deploying.verifying.questions import Question

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

import torch  # noqa: E402
from vllm.v1.attention.backends.cpu_attn import TorchSDPAMetadataBuilderV1  # noqa: E402
from vllm.v1.attention.backends.utils import CommonAttentionMetadata  # noqa: E402

from tests.integration.engines.inside.cpu_attention import prefills_first  # noqa: E402
from tests.integration.engines.rig import BLOCK, BLOCKS, Engine, Reference, prompt, wait_until_idle  # noqa: E402

REQUESTS = 64
ANSWER = 40
WAIT_S = 120
LENGTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 40, 70, 100)


def crowd() -> list[Question]:
    """Return questions of mixed lengths; every other one begins like some others do."""
    dice = random.Random(64)
    stems = [prompt(f"stem {number}", max(LENGTHS)).body["prompt"] for number in range(4)]
    questions = []
    for number in range(REQUESTS):
        question = prompt(f"one of {REQUESTS}, {number}", dice.choice(LENGTHS), ANSWER)
        tokens = question.body["prompt"]
        if number % 2:
            shared = dice.choice(stems)[: len(tokens) - 1]
            tokens = shared + tokens[len(shared) :]
        questions.append(replace(question, body={**question.body, "prompt": tokens}))
    return questions


def test_many_requests_on_a_small_cache_are_preempted_and_answered_right(engine: Engine, plain: Reference) -> None:
    questions, salt = crowd(), uuid.uuid4().hex
    plain.prepare(questions)
    for computed in (True, False):
        preemptions, loaded = engine.value("vllm:num_preemptions_total"), engine.counters()["loaded_blocks"]
        for question, answer in zip(questions, engine.ask_all(questions, salt), strict=True):
            plain.check(question, answer)
        assert engine.value("vllm:num_preemptions_total") > preemptions, "no request was preempted"
        assert computed or engine.counters()["loaded_blocks"] > loaded, "nothing was loaded"
        wait_until_idle(engine)
        engine.forget()


def test_two_loaded_requests_that_hold_the_whole_cache_are_both_answered_right(
    engine: Engine, plain: Reference
) -> None:
    """Neither gets the blocks that it needs beside the loaded ones: one gives its own back and is computed."""
    assert engine.gate is not None
    half, salt = (BLOCKS - 4) // 2, uuid.uuid4().hex
    shared = prompt("the beginning of both", half * BLOCK + 1)
    plain.check(shared, engine.ask(shared, salt))
    engine.forget()
    questions = []
    for name in ("one", "other"):
        question = prompt(f"the end of {name}", 5 * BLOCK)
        tokens = shared.body["prompt"][: half * BLOCK] + question.body["prompt"]
        questions.append(replace(question, body={**question.body, "prompt": tokens}))
    plain.prepare(questions)
    before, both = engine.counters()["loaded_blocks"], threading.Barrier(2)

    def act(message: dict[str, Any]) -> None:
        if message["moment"] == "load":
            both.wait(WAIT_S)

    with engine.gate.watched(act):
        answers = engine.ask_all(questions, salt)
    for question, answer in zip(questions, answers, strict=True):
        plain.check(question, answer)
    assert engine.counters()["loaded_blocks"] - before == 2 * half, "both were loaded"
    wait_until_idle(engine)
    engine.forget()


class Batch:
    """What the attention's builder sees of a batch: one request, resumed with its whole prompt in the prefix cache."""

    num_reqs = 1
    req_ids = ("resumed",)
    num_prompt_tokens = (BLOCK,)
    num_computed_tokens_cpu = (BLOCK,)


def attention_metadata(reorder: Any) -> Any:
    """Return vLLM's metadata of a step that computes the 7 tokens which the request generated before."""
    left = 7
    settings = SimpleNamespace(max_num_seqs=4, chunked_prefill_enabled=True)
    builder = TorchSDPAMetadataBuilderV1(None, SimpleNamespace(scheduler_config=settings), torch.device("cpu"))
    reorder(builder, Batch(), SimpleNamespace(num_scheduled_tokens={"resumed": left}))
    starts, ends = torch.tensor([0, left], dtype=torch.int32), torch.tensor([BLOCK + left], dtype=torch.int32)
    common = CommonAttentionMetadata(
        query_start_loc=starts, query_start_loc_cpu=starts, seq_lens=ends, seq_lens_cpu=ends,
        num_computed_tokens_cpu=ends - left, num_reqs=1, num_actual_tokens=left, max_query_len=left,
        block_table_tensor=torch.zeros(1, 2, dtype=torch.int32), slot_mapping=torch.arange(left),
    )  # fmt: skip
    return builder.build(0, common)


def test_vllms_cpu_back_end_still_computes_several_tokens_as_one_decode() -> None:
    """While this holds, the engines of these tests need ``inside/cpu_attention.py``; when it fails, remove that."""
    metadata = attention_metadata(TorchSDPAMetadataBuilderV1.reorder_batch)
    assert len(metadata.seq_lens_tensor) == 1, "its kernel for decodes gets one request"
    assert metadata.num_decode_tokens == 7, "and seven tokens"


def test_the_mended_back_end_computes_them_as_a_prefill() -> None:
    metadata = attention_metadata(prefills_first)
    assert (metadata.num_prefill_tokens, metadata.num_decode_tokens) == (7, 0)
    assert (metadata.num_prefills, metadata.seq_lens) == (1, [BLOCK + 7])
