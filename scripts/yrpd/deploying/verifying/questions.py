"""What verification asks, as data: questions, and the scenes that ask them. Pure."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from yrpd.deploying.verifying.pictures import two_pictures

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
ANSWER_TOKENS = 8
TOP = 5
LONG = 3000
ROOM_FOR_CHAT = 2048  # tokens of a chat of some sentences, or of some sentences and a picture
SHARED_BLOCKS = 3
TTFT_ROUNDS = 3
AT_ONCE = ("exactly a block", "a block and a token", "several blocks", "chat")
TUTORIAL_PROMPT = "介绍一下北京故宫，从地理位置、历史地位以及政治地位角度来说明"
TUTORIAL_TOKENS = 50


@dataclass(frozen=True)
class Question:
    """Something to ask.

    Attributes:
        name: What it is called in the report.
        path: Where it is asked.
        body: The request, without model, salt and stream.
    """

    name: str
    path: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Shot:
    """A question asked once.

    Attributes:
        name: What it is called in the report.
        question: What is asked.
        known_blocks: Leading blocks that an earlier shot of the same scene has left in decode's own cache.
        repeated: The same prompt was asked in this scene before: nothing is saved or loaded again.
        stream: Ask for a stream.
        timed: Its time to the first token is reported under this name.
    """

    name: str
    question: Question
    known_blocks: int = 0
    repeated: bool = False
    stream: bool = False
    timed: str = ""


@dataclass(frozen=True)
class Scene:
    """Shots under one fresh salt: they may find each other's blocks, and nobody else's.

    Attributes:
        name: What it is called in the report.
        shots: What is asked.
        together: Ask all at the same time, each under a salt of its own.
    """

    name: str
    shots: tuple[Shot, ...]
    together: bool = False


def _completion(name: str, prompt: str | list[int], tokens: int = ANSWER_TOKENS) -> Question:
    body = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "logprobs": TOP,
        "return_tokens_as_token_ids": True,
    }
    return Question(name, COMPLETIONS, body)


def _chat(name: str, text: str, picture: str | None) -> Question:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if picture is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": picture}})
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": TOP,
        "return_tokens_as_token_ids": True,
    }
    return Question(name, CHAT, body)


def prose(pieces: int) -> list[str]:
    """Return sentences of English and Chinese, no two alike, the same every time."""
    dice = random.Random(20)  # noqa: S311  (text, not secrets)
    cities = ("Hangzhou", "Lisbon", "Nairobi", "Quito", "Tromsø", "成都", "哈尔滨", "西安")
    goods = ("lanterns", "tea", "sextants", "paper", "copper wire", "青瓷", "丝绸", "书籍")
    return [
        f"{number}. On day {dice.randrange(1, 366)} a courier left {dice.choice(cities)} for {dice.choice(cities)} "
        f"with {dice.randrange(2, 9999)} crates of {dice.choice(goods)}, 途中经过{dice.choice(cities)}, "
        f"and {dice.randrange(2, 99)} letters about {dice.choice(goods)}.\n"
        for number in range(1, pieces + 1)
    ]


def lengths(block_size: int, max_model_len: int) -> dict[str, int]:
    """Return the prompt lengths around the block's borders, in tokens, longest last; only those that fit."""
    room = max_model_len - ANSWER_TOKENS - 1
    wanted = {
        "one token": 1,
        "less than a block": max(2, block_size // 2),
        "one token short of a block": block_size - 1,
        "exactly a block": block_size,
        "a block and a token": block_size + 1,
        "exactly two blocks": 2 * block_size,
        "several blocks": 5 * block_size + 7,
        "long": min(LONG, room),
    }
    return {name: length for name, length in wanted.items() if length <= room}


def text_questions(tokens: Sequence[int], block_size: int, max_model_len: int) -> dict[str, Question]:
    """Return the questions in text, by name.

    Args:
        tokens: Ids of real text, at least as many as all prompts together.
        block_size: Tokens of a KV block.
        max_model_len: Prompt and answer together.

    Raises:
        ValueError: There are too few tokens.
    """
    questions: dict[str, Question] = {}
    start = 0

    def take(count: int) -> list[int]:
        nonlocal start
        taken = list(tokens[start : start + count])
        if len(taken) < count:
            raise ValueError(f"{len(tokens)} tokens of text are too few")
        start += count
        return taken

    for name, length in lengths(block_size, max_model_len).items():
        questions[name] = _completion(name, take(length))
    base = questions.get("several blocks")
    if base is not None:
        shared = base.body["prompt"][: SHARED_BLOCKS * block_size]
        name = "same beginning"
        questions[name] = _completion(name, shared + take(block_size + block_size // 2))
    questions["tutorial"] = _completion("tutorial", TUTORIAL_PROMPT, TUTORIAL_TOKENS)
    if max_model_len >= ROOM_FOR_CHAT:
        questions["chat"] = _chat("chat", "".join(prose(12)) + "Which courier carried the most?", None)
    return questions


def picture_questions() -> dict[str, Question]:
    """Return the questions about two pictures, with the same text, longer than a block together with the picture."""
    text = "".join(prose(6)) + "What do you see in the picture? 请描述这张图片。"
    first, second = two_pictures()
    return {"picture A": _chat("picture A", text, first), "picture B": _chat("picture B", text, second)}


def scenes(questions: dict[str, Question]) -> tuple[Scene, ...]:
    """Return what is asked, in order.

    Args:
        questions: All questions, by name.
    """
    plan: list[Scene] = []
    grouped = ("several blocks", "same beginning", "picture A", "picture B", "long")
    for name, question in questions.items():
        if name not in grouped:
            plan.append(Scene(name, (Shot(name, question),)))
    if several := questions.get("several blocks"):
        first = Shot("several blocks", several)
        same = Shot("same beginning", questions["same beginning"], known_blocks=SHARED_BLOCKS)
        again = Shot("several blocks, again", several, repeated=True)
        plan.append(Scene("several blocks", (first, same, again)))
        plan.append(Scene("a stream", (Shot("several blocks, streamed", several, stream=True),)))
    if "picture A" in questions:
        one, other = questions["picture A"], questions["picture B"]
        # One salt for both pictures: their text is the same, so only the picture keeps their blocks apart.
        pictures = (Shot("picture A", one), Shot("picture B", other), Shot("picture A, again", one, repeated=True))
        plan.append(Scene("two pictures", pictures))
        plan.append(Scene("a stream about a picture", (Shot("picture B, streamed", other, stream=True),)))
    several_at_once = [name for name in AT_ONCE if name in questions]
    crowd = tuple(Shot(f"{name}, with others", questions[name]) for name in several_at_once)
    plan.append(Scene("several at once", crowd, together=True))
    for turn in range(1, TTFT_ROUNDS + 1):
        long = questions["long"]
        cold = Shot(f"long, cold {turn}", long, stream=True, timed="cold")
        warm = Shot(f"long, warm {turn}", long, stream=True, timed="warm", repeated=True)
        plan.append(Scene(f"long, round {turn}", (cold, warm)))
    return tuple(plan)


def digest(questions: dict[str, Question]) -> str:
    """Return the identity of a set of questions."""
    content = json.dumps([[each.name, each.path, each.body] for each in questions.values()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def tutorial_request(model: str) -> dict[str, Any]:
    """Return the tutorial's own request body."""
    return {"model": model, "prompt": TUTORIAL_PROMPT, "max_tokens": TUTORIAL_TOKENS, "temperature": 0}
