"""Answers are read, and doctored ones are told from right ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.deploying.verifying.answers import Answer, MalformedAnswerError, compare, distance, parse, scale
from yrpd.deploying.verifying.reference import ANSWERS

RIGHT = Answer(
    tokens=(5, 6, 7),
    logprobs=(-0.5, -0.25, -1.0),
    tops=({5: -0.5, 9: -2.0}, {6: -0.25, 9: -3.0}, {7: -1.0, 8: -1.0001}),
    prompt_tokens=11,
    text="abc",
    finish_reason="length",
)
TOLERANCE = 1e-3


def same(answer: Answer, *, ties: bool = False) -> bool:
    return compare(answer, RIGHT, TOLERANCE, ties=ties).equal


def completion(**fields: Any) -> dict[str, Any]:
    logprobs = {
        "tokens": ["token_id:5", "token_id:6"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"token_id:5": -0.5, "token_id:9": -2.0}, {"token_id:6": -0.25}],
    }
    choice = {"index": 0, "text": "ab", "logprobs": logprobs, "finish_reason": "length"}
    return {"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 2}, **fields}


def chat() -> dict[str, Any]:
    content = [
        {"token": "token_id:5", "logprob": -0.5, "top_logprobs": [{"token": "token_id:9", "logprob": -2.0}]},
        {"token": "token_id:6", "logprob": -0.25, "top_logprobs": []},
    ]
    choice = {"message": {"content": "ab"}, "logprobs": {"content": content}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 11}}


def test_the_same_answer_is_equal_and_something_was_compared() -> None:
    result = compare(RIGHT, RIGHT, TOLERANCE, ties=False)
    assert result.equal
    assert result.worst == 0
    assert result.compared == 9


def test_another_token_is_found() -> None:
    assert not same(replace(RIGHT, tokens=(5, 6, 8)))
    assert "position 2 is token 8, not 7" in compare(replace(RIGHT, tokens=(5, 6, 8)), RIGHT, 1e-9, ties=False).problem


def test_a_log_probability_beyond_the_tolerance_is_found() -> None:
    assert same(replace(RIGHT, logprobs=(-0.5005, -0.25, -1.0)))
    assert not same(replace(RIGHT, logprobs=(-0.502, -0.25, -1.0)))


def test_a_log_probability_of_a_token_that_was_not_chosen_is_compared_too() -> None:
    assert not same(replace(RIGHT, tops=({5: -0.5, 9: -2.1}, *RIGHT.tops[1:])))


def test_a_shorter_and_a_longer_answer_are_found() -> None:
    short = replace(RIGHT, tokens=(5, 6), logprobs=RIGHT.logprobs[:2], tops=RIGHT.tops[:2])
    assert not same(short)
    assert not compare(RIGHT, short, TOLERANCE, ties=False).equal


def test_another_prompt_length_is_found() -> None:
    assert "read as 12 tokens, not 11" in compare(replace(RIGHT, prompt_tokens=12), RIGHT, 1, ties=True).problem


def test_answers_without_tokens_are_not_equal() -> None:
    empty = replace(RIGHT, tokens=(), logprobs=(), tops=())
    assert not compare(empty, empty, TOLERANCE, ties=True).equal


def test_a_tie_of_the_reference_ends_the_comparison_only_where_ties_are_allowed() -> None:
    parted = replace(RIGHT, tokens=(5, 6, 8), logprobs=(-0.5, -0.25, -1.0001))
    assert not same(parted)
    result = compare(parted, RIGHT, TOLERANCE, ties=True)
    assert result.equal
    assert result.tie == 2


def test_a_token_that_is_no_tie_is_wrong_even_where_ties_are_allowed() -> None:
    assert not same(replace(RIGHT, tokens=(9, 6, 7), logprobs=(-2.0, -0.25, -1.0)), ties=True)


def test_completions_and_chats_are_read_alike() -> None:
    one, other = parse([completion()]), parse([chat()])
    assert one.tokens == other.tokens == (5, 6)
    assert one.logprobs == other.logprobs == (-0.5, -0.25)
    assert one.text == other.text == "ab"
    assert (one.prompt_tokens, one.finish_reason, other.finish_reason) == (11, "length", "stop")


def test_a_stream_is_read_like_the_whole() -> None:
    whole = completion()
    choice = whole["choices"][0]
    pieces = []
    for index in range(2):
        logprobs = {name: values[index : index + 1] for name, values in choice["logprobs"].items()}
        pieces.append({"choices": [{"text": choice["text"][index], "logprobs": logprobs, "finish_reason": None}]})
    pieces[-1]["choices"][0]["finish_reason"] = "length"
    assert parse([*pieces, {"choices": [], "usage": {"prompt_tokens": 11}}]) == parse([whole])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"error": {"message": "no"}}, "answers an error"),
        ({"choices": [], "usage": {"prompt_tokens": 3}}, "no token ids"),
        (completion(usage=None), "how long the prompt"),
        ({"choices": [{"text": "a", "logprobs": None}], "usage": {"prompt_tokens": 3}}, "no token ids"),
    ],
)
def test_incomplete_answers_are_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedAnswerError, match=message):
        parse([document])


def test_tokens_given_as_text_are_refused() -> None:
    document = json.loads(json.dumps(completion()).replace("token_id:5", "hello"))
    with pytest.raises(MalformedAnswerError, match="'hello' is not given as an id"):
        parse([document])


def test_log_probabilities_that_are_no_numbers_are_refused() -> None:
    document = completion()
    document["choices"][0]["logprobs"]["token_logprobs"][0] = math.nan
    with pytest.raises(MalformedAnswerError, match="a log-probability is nan"):
        parse([document])


logprob = st.floats(-20, 0)


@given(st.lists(st.tuples(st.integers(0, 9), logprob, st.dictionaries(st.integers(0, 9), logprob)), min_size=1))
def test_what_is_kept_is_read_back(positions: list[tuple[int, float, dict[int, float]]]) -> None:
    tokens, logprobs, tops = zip(*positions, strict=True)
    answer = Answer(tokens, logprobs, tops, 3, "x", "stop")
    assert ANSWERS.validate_json(ANSWERS.dump_json({"a": answer})) == {"a": answer}
    assert compare(answer, answer, 0.0, ties=False).equal


def test_distance_and_scale() -> None:
    assert distance(RIGHT, RIGHT) == 0
    assert distance(RIGHT, replace(RIGHT, tokens=(4, 6, 7))) == math.inf
    moved = replace(RIGHT, tops=({5: -0.5, 9: -2.5}, *RIGHT.tops[1:]))
    assert distance(RIGHT, moved) == 0.5
    assert scale(RIGHT) == 3.0
