"""Answers of an OpenAI-compatible server, read into one form, and compared. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOKEN_MARK = "token_id:"  # noqa: S105  (what return_tokens_as_token_ids puts in place of a token's text)


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        tokens: Generated token ids.
        logprobs: Log-probability of each generated token.
        tops: For each position the likeliest tokens, id to log-probability.
        prompt_tokens: Length of the prompt, as the server counts it.
        text: The generated text.
        finish_reason: Why it ended.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    tops: tuple[dict[int, float], ...]
    prompt_tokens: int
    text: str
    finish_reason: str


class MalformedAnswerError(ValueError):
    """An answer lacks what was asked for."""


def token_id(text: str) -> int:
    """Return the id out of ``token_id:123``.

    Raises:
        MalformedAnswerError: It is a token's text instead.
    """
    if not text.startswith(TOKEN_MARK):
        raise MalformedAnswerError(f"the token {text!r} is not given as an id")
    return int(text.removeprefix(TOKEN_MARK))


def parse(documents: Sequence[Mapping[str, Any]]) -> Answer:
    """Return the answer out of one complete document, or out of all chunks of a stream.

    Raises:
        MalformedAnswerError: Something that was asked for is missing.
    """
    tokens: list[int] = []
    logprobs: list[float] = []
    tops: list[dict[int, float]] = []
    text, reason, prompt_tokens = "", "", 0
    for document in documents:
        if "error" in document:
            raise MalformedAnswerError(f"the server answers an error: {document['error']}")
        usage = document.get("usage")
        if usage:
            prompt_tokens = int(usage["prompt_tokens"])
        for choice in document.get("choices") or ():
            piece = choice.get("message") or choice.get("delta")
            text += str((piece or {}).get("content") or "") if piece is not None else str(choice.get("text") or "")
            reason = str(choice.get("finish_reason") or reason)
            for token, logprob, top in _positions(choice.get("logprobs")):
                tokens.append(token)
                logprobs.append(logprob)
                tops.append(top)
    if not tokens:
        raise MalformedAnswerError("the answer holds no token ids and log-probabilities")
    if not prompt_tokens:
        raise MalformedAnswerError("the answer does not say how long the prompt is")
    return Answer(tuple(tokens), tuple(logprobs), tuple(tops), prompt_tokens, text, reason)


def _positions(logprobs: Mapping[str, Any] | None) -> list[tuple[int, float, dict[int, float]]]:
    if not logprobs:
        return []
    if logprobs.get("content") is not None:  # chat
        return [
            (
                token_id(each["token"]),
                _finite(each["logprob"]),
                {token_id(top["token"]): _finite(top["logprob"]) for top in each.get("top_logprobs") or ()},
            )
            for each in logprobs["content"]
        ]
    return [
        (token_id(token), _finite(logprob), {token_id(name): _finite(value) for name, value in (top or {}).items()})
        for token, logprob, top in zip(
            logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
        )
    ]


def _finite(value: Any) -> float:
    number = float(value) if value is not None else math.nan
    if not math.isfinite(number):
        raise MalformedAnswerError(f"a log-probability is {value}")
    return number


def scale(answer: Answer) -> float:
    """Return the largest magnitude among an answer's log-probabilities."""
    return max(abs(value) for values in (answer.logprobs, *(top.values() for top in answer.tops)) for value in values)


@dataclass(frozen=True)
class Comparison:
    """How an answer compares with the reference.

    Attributes:
        equal: Token ids are equal and all log-probabilities within the tolerance.
        worst: Largest difference of two log-probabilities.
        compared: How many pairs of log-probabilities were compared.
        problem: What is different, a half sentence; empty when equal.
        tie: Position at which the answers part because the reference's two best tokens are as good as equal.
    """

    equal: bool
    worst: float
    compared: int
    problem: str = ""
    tie: int | None = None


def compare(answer: Answer, reference: Answer, tolerance: float, *, ties: bool) -> Comparison:
    """Compare an answer with the reference.

    Args:
        answer: What the deployment said.
        reference: What plain vLLM said.
        tolerance: Allowed difference of two log-probabilities.
        ties: Answers may part where the reference's two best tokens differ by no more than the tolerance.
    """
    if answer.prompt_tokens != reference.prompt_tokens:
        lengths = f"{answer.prompt_tokens} tokens, not {reference.prompt_tokens}"
        return Comparison(False, math.inf, 0, f"the prompt was read as {lengths}")
    worst, compared = 0.0, 0
    for position in range(min(len(answer.tokens), len(reference.tokens))):
        got, wanted = answer.tops[position], reference.tops[position]
        pairs = [(token, got[token], wanted[token]) for token in got.keys() & wanted.keys()]
        same = answer.tokens[position] == reference.tokens[position]
        if same:
            pairs.append((answer.tokens[position], answer.logprobs[position], reference.logprobs[position]))
        for token, mine, theirs in pairs:
            compared += 1
            worst = max(worst, abs(mine - theirs))
            if abs(mine - theirs) > tolerance:
                return Comparison(
                    False,
                    worst,
                    compared,
                    f"token {token} at position {position} has log-probability {mine:.6f}, not {theirs:.6f}",
                )
        if not same:
            if ties and _is_tie(answer.tokens[position], reference, position, tolerance):
                return Comparison(compared > 0, worst, compared, tie=position)
            tokens = f"{answer.tokens[position]}, not {reference.tokens[position]}"
            return Comparison(False, worst, compared, f"position {position} is token {tokens}")
    if len(answer.tokens) != len(reference.tokens):
        lengths = f"{len(answer.tokens)} tokens, not {len(reference.tokens)}"
        return Comparison(False, worst, compared, f"the answer has {lengths}")
    if not compared:
        return Comparison(False, worst, 0, "nothing could be compared")
    return Comparison(True, worst, compared)


def _is_tie(token: int, reference: Answer, position: int, tolerance: float) -> bool:
    top = reference.tops[position]
    return token in top and abs(top[token] - reference.logprobs[position]) <= tolerance


def distance(first: Answer, second: Answer) -> float:
    """Return how different two answers are: infinite when their first tokens are, else the largest difference there."""
    if first.tokens[0] != second.tokens[0] or first.tops[0].keys() != second.tops[0].keys():
        return math.inf
    return max(abs(first.tops[0][token] - second.tops[0][token]) for token in first.tops[0])
