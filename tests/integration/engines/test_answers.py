"""Answers of real engines over a real DataSystem are plain vLLM's, and their blocks were really loaded."""

from __future__ import annotations

import uuid

import pytest

from yrpd.deploying.verifying.pictures import two_pictures
from yrpd.deploying.verifying.questions import CHAT, Question

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from tests.integration.engines.rig import BLOCK, Engine, Reference, prompt  # noqa: E402

LENGTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 7, 1000)


def loadable(tokens: int) -> int:
    """Return how many blocks of a prompt can be loaded: whole ones, and never all of its tokens."""
    return (tokens - 1) // BLOCK


def chat(name: str, text: str, pictures: list[str]) -> Question:
    content = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
    body = {
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 5,
        "return_tokens_as_token_ids": True,
    }
    return Question(name, CHAT, body)


def test_prompts_of_every_length_are_answered_right_from_loaded_blocks(engine: Engine, plain: Reference) -> None:
    questions, salt = [prompt("length", tokens) for tokens in LENGTHS], uuid.uuid4().hex
    plain.prepare(questions)
    for question in questions:
        plain.check(question, engine.ask(question, salt))
    for question, tokens in zip(questions, LENGTHS, strict=True):
        engine.forget()
        before = engine.counters()["loaded_blocks"]
        plain.check(question, engine.ask(question, salt))
        assert engine.counters()["loaded_blocks"] - before == loadable(tokens), question.name


def test_text_and_several_pictures_at_once(engine: Engine, plain: Reference) -> None:
    one, other = two_pictures()
    questions = [
        prompt("beside pictures", 100),
        chat("one picture", "What is this?", [one]),
        chat("other picture", "What is this?", [other]),
        chat("both pictures", "What differs?", [one, other]),
        chat("both, swapped", "What differs?", [other, one]),
        chat("three pictures", "Which two are the same?", [one, other, one]),
        prompt("beside pictures", 333),
    ]
    salt = uuid.uuid4().hex
    plain.prepare(questions)
    for number in range(3):  # computed, loaded, and loaded beside what vLLM kept
        before = engine.counters()
        for question, answer in zip(questions, engine.ask_all(questions, salt), strict=True):
            plain.check(question, answer)
        after = engine.counters()
        if number == 1:
            assert after["loaded_blocks"] - before["loaded_blocks"] >= 16, "a picture alone has 16 blocks"
        if number < 1:
            engine.forget()
