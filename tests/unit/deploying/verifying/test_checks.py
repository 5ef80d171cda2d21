"""A report passes for the right answers and counters, and for nothing else."""

from __future__ import annotations

import pytest

from yrpd.deploying.status import counters
from yrpd.deploying.verifying import checks
from yrpd.deploying.verifying.answers import Answer
from yrpd.deploying.verifying.checks import Outcome, Yardstick
from yrpd.deploying.verifying.questions import Question, Shot
from yrpd.deploying.verifying.tolerance import Shape

YARDSTICK = Yardstick(Shape(4, 256, 512, 64), "float32")


def answer(token: int = 5, logprob: float = -0.5, prompt: int = 300) -> Answer:
    return Answer((token, 6), (logprob, -0.2), ({token: logprob, 1: -4.0}, {6: -0.2}), prompt, "ab", "length")


def outcome(
    name: str,
    given: Answer | None,
    *,
    problem: str = "",
    chunks: int = 0,
    stream: bool = False,
    repeated: bool = False,
    known_blocks: int = 0,
) -> Outcome:
    question = Question(name, "/v1/completions", {})
    shot = Shot(name, question, known_blocks=known_blocks, repeated=repeated, stream=stream)
    return Outcome(shot, given, problem=problem, chunks=chunks)


def passed(found: list[checks.Check]) -> list[bool]:
    return [check.passed for check in found]


def test_right_answers_pass() -> None:
    assert passed(checks.answer_checks([outcome("a", answer())], {"a": answer()}, YARDSTICK)) == [True]


@pytest.mark.parametrize(
    "wrong",
    [
        outcome("a", None, problem="status 500"),
        outcome("a", answer(token=7)),
        outcome("a", answer(logprob=-0.51)),
        outcome("a", answer(prompt=301)),
        outcome("unknown", answer()),
    ],
)
def test_every_kind_of_wrong_answer_fails(wrong: Outcome) -> None:
    (check,) = checks.answer_checks([wrong], {"a": answer()}, YARDSTICK)
    assert not check.passed
    assert check.detail


def test_the_wrong_pictures_answer_is_found() -> None:
    """The sample's defect: keys without the picture give B the answer of A."""
    references = {"picture A": answer(), "picture B": answer(logprob=-0.9)}
    outcomes = [outcome("picture A", answer()), outcome("picture B", answer())]
    assert passed(checks.answer_checks(outcomes, references, YARDSTICK)) == [True, False]


def test_questions_that_plain_vllm_answers_alike_prove_nothing() -> None:
    alike = {"a": answer(), "b": answer()}
    apart = {"a": answer(), "b": answer(logprob=-0.9)}
    assert passed(checks.difference_checks(alike, YARDSTICK, pictures=False)) == [False]
    assert passed(checks.difference_checks(apart, YARDSTICK, pictures=False)) == [True]
    assert passed(checks.difference_checks({"a": answer()}, YARDSTICK, pictures=False)) == [False]


def test_pictures_that_plain_vllm_answers_alike_prove_nothing() -> None:
    texts = {"a": answer(), "b": answer(token=8)}
    blind = {**texts, "picture A": answer(logprob=-0.7), "picture B": answer(logprob=-0.7)}
    seeing = {**blind, "picture B": answer(logprob=-0.8)}
    assert passed(checks.difference_checks(blind, YARDSTICK, pictures=True)) == [True, False]
    assert passed(checks.difference_checks(seeing, YARDSTICK, pictures=True)) == [True, True]


@pytest.mark.parametrize(
    ("prompt", "saved", "loaded"), [(1, 0, 0), (127, 0, 0), (128, 1, 0), (129, 1, 1), (256, 2, 1), (257, 2, 2)]
)
def test_full_blocks_are_expected_and_one_token_is_left_to_compute(prompt: int, saved: int, loaded: int) -> None:
    expectation = checks.expect_blocks([outcome("a", answer(prompt=prompt))], 128, exact=True)
    assert (expectation.saved, expectation.loaded) == (saved, loaded)


def test_repeated_and_known_blocks_are_not_expected_again() -> None:
    outcomes = [
        outcome("a", answer(prompt=700)),
        outcome("a", answer(prompt=700), repeated=True),
        outcome("b", answer(prompt=600), known_blocks=3),
        outcome("c", None),
    ]
    assert checks.expect_blocks(outcomes, 128, exact=True) == checks.Expectation(5 + 1, 5 + 1, True)


def grown(**fields: int) -> dict[str, int]:
    return {**dict.fromkeys(counters.NAMES, 0), **fields}


def attempt(prefill: dict[str, int], decode: dict[str, int], *, exact: bool = True) -> checks.Attempt:
    return checks.Attempt((outcome("a", answer()),), prefill, decode, checks.Expectation(7, 6, exact))


RIGHT = attempt(grown(saved_blocks=7), grown(loaded_blocks=6))


def test_exact_counts_pass() -> None:
    check = checks.scene_check("a", [RIGHT])
    assert check.passed
    assert check.detail == "7 saved of 7, 6 loaded of 6"


WRONG = [
    (grown(saved_blocks=7), grown(loaded_blocks=0)),
    (grown(saved_blocks=7), grown(loaded_blocks=5)),
    (grown(saved_blocks=7), grown(loaded_blocks=7)),
    (grown(saved_blocks=6), grown(loaded_blocks=6)),
    (grown(saved_blocks=0), grown(loaded_blocks=6)),
    (grown(saved_blocks=7), grown(loaded_blocks=6, saved_blocks=1)),
    (grown(saved_blocks=7), grown(loaded_blocks=6, load_failures=1)),
    (grown(saved_blocks=7), grown(loaded_blocks=6, recomputed_requests=1)),
    (grown(saved_blocks=7, save_failures=1), grown(loaded_blocks=6)),
]


@pytest.mark.parametrize(("prefill", "decode"), WRONG)
def test_any_other_counts_fail(prefill: dict[str, int], decode: dict[str, int]) -> None:
    assert not checks.scene_check("a", [attempt(prefill, decode)]).passed


def test_an_attempt_that_the_datasystem_was_late_for_is_told_and_the_repetition_counts() -> None:
    late = attempt(grown(saved_blocks=3, save_failures=4), grown(loaded_blocks=3))
    check = checks.scene_check("a", [late, RIGHT])
    assert check.passed
    assert check.detail == "7 saved of 7, 6 loaded of 6; attempt 1: 3 saved of 7, 3 loaded of 6, save_failures P 4"
    assert not checks.scene_check("a", [RIGHT, late]).passed


def test_a_question_without_an_answer_never_counts_as_travelled() -> None:
    silent = checks.Attempt((outcome("a", None),), grown(), grown(), checks.Expectation(0, 0, True))
    assert not checks.scene_check("a", [silent]).passed


def test_nothing_moved_never_passes() -> None:
    assert not checks.total_check([attempt(grown(), grown())]).passed
    assert not checks.total_check([attempt(grown(saved_blocks=1), grown())]).passed
    assert not checks.total_check([]).passed
    assert checks.total_check([RIGHT]).passed


def test_several_instances_have_least_numbers() -> None:
    more = attempt(grown(saved_blocks=9), grown(loaded_blocks=8), exact=False)
    fewer = attempt(grown(saved_blocks=9), grown(loaded_blocks=5), exact=False)
    assert checks.scene_check("a", [more]).passed
    assert not checks.scene_check("a", [fewer]).passed


def test_an_open_breaker_is_seen() -> None:
    assert counters.breaker_is_open("yuanrong_breaker_open 1.0\n")
    assert not counters.breaker_is_open("# HELP yuanrong_breaker_open 1\nyuanrong_breaker_open 0.0\n")
    assert not counters.breaker_is_open("")


def test_pictures_must_fill_a_block() -> None:
    assert checks.picture_check([outcome("picture A", answer(prompt=400))], 128).passed is True
    assert checks.picture_check([outcome("picture A", answer(prompt=100))], 128).passed is False
    assert checks.picture_check([], 128).passed is False


def test_counters_are_summed_over_labels_and_absent_ones_are_zero() -> None:
    text = """# HELP yuanrong_loaded_blocks_total KV blocks
# TYPE yuanrong_loaded_blocks_total counter
yuanrong_loaded_blocks_total 12.0
yuanrong_load_failures_total{cause="timeout"} 1.0
yuanrong_load_failures_total{cause="missing"} 2.0
yuanrong_loaded_blocks_created 1.7e+09
vllm:num_requests_running{engine="0"} 0.0
"""
    read = counters.read_counters(text)
    assert (read["loaded_blocks"], read["load_failures"], read["saved_blocks"]) == (12, 3, 0)
    assert counters.growth(read, counters.total([read, read]))["loaded_blocks"] == 12


def test_one_stream_in_pieces_is_enough_and_none_is_not() -> None:
    whole = outcome("a", answer(), stream=True, chunks=1)
    pieces = outcome("b", answer(), stream=True, chunks=8)
    assert checks.stream_check([whole, pieces]).passed
    assert not checks.stream_check([whole, outcome("c", answer(), chunks=9)]).passed
    assert not checks.stream_check([]).passed
