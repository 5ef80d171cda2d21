"""Turns answers and counters into checks that pass or fail. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from yrpd.deploying.verifying.answers import Answer, compare, distance, scale
from yrpd.deploying.verifying.questions import Shot
from yrpd.deploying.verifying.tolerance import Shape, logprob_tolerance, ties_allowed

FAILURES = ("load_failures", "save_failures", "recomputed_requests")


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was checked.
        passed: Whether it holds.
        detail: What was seen.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What became of a shot.

    Attributes:
        shot: What was asked.
        answer: The answer; ``None`` when there was none.
        problem: Why there was none.
        first_token_s: Seconds to the first token of a stream.
        chunks: Chunks of a stream that carried tokens.
    """

    shot: Shot
    answer: Answer | None
    problem: str = ""
    first_token_s: float = 0.0
    chunks: int = 0


@dataclass(frozen=True)
class Yardstick:
    """What answers are measured by.

    Attributes:
        shape: The model's sizes.
        dtype: What it computes in.
    """

    shape: Shape
    dtype: str

    def tolerance(self, reference: Answer) -> float:
        """Return the allowed difference of log-probabilities for one reference answer."""
        tokens = reference.prompt_tokens + len(reference.tokens)
        return logprob_tolerance(self.shape, self.dtype, tokens, scale(reference))


def answer_checks(outcomes: Iterable[Outcome], references: Mapping[str, Answer], yardstick: Yardstick) -> list[Check]:
    """Return one check per shot: the same tokens as plain vLLM, log-probabilities within the tolerance."""
    checks = []
    for outcome in outcomes:
        name = f"answer: {outcome.shot.name}"
        reference = references.get(outcome.shot.question.name)
        if outcome.answer is None:
            checks.append(Check(name, False, outcome.problem or "there is no answer"))
        elif reference is None:
            checks.append(Check(name, False, "plain vLLM did not answer this question"))
        else:
            checks.append(_answer_check(name, outcome.answer, reference, yardstick))
    return checks


def stream_check(outcomes: Iterable[Outcome]) -> Check:
    """Return the check that streams come in pieces.

    Not every one: where the client is slower than the model, vLLM puts several tokens into one piece.
    """
    pieces = [outcome.chunks for outcome in outcomes if outcome.shot.stream and outcome.answer is not None]
    return Check(
        "streams come in pieces",
        any(count > 1 for count in pieces),
        f"{', '.join(map(str, pieces)) or 'no'} pieces with tokens",
    )


def _answer_check(name: str, answer: Answer, reference: Answer, yardstick: Yardstick) -> Check:
    tolerance = yardstick.tolerance(reference)
    result = compare(answer, reference, tolerance, ties=ties_allowed(yardstick.dtype))
    if not result.equal:
        return Check(name, False, f"{result.problem} (tolerance {tolerance:.1e})")
    tie = f", parting at position {result.tie} on a tie" if result.tie is not None else ""
    return Check(
        name,
        True,
        f"{reference.prompt_tokens} prompt tokens, {len(answer.tokens)} tokens equal{tie}, "
        f"{result.compared} log-probabilities within {result.worst:.1e} of at most {tolerance:.1e}",
    )


def difference_checks(references: Mapping[str, Answer], yardstick: Yardstick, pictures: bool) -> list[Check]:
    """Return checks that the questions can tell right from wrong: plain vLLM's own answers differ from each other.

    Random weights often repeat one token whatever is asked, so log-probabilities are what differs.
    """
    pairs = [
        (distance(references[one], references[other]), one, other)
        for one, other in combinations(sorted(references), 2)
        if not (one.startswith("picture") and other.startswith("picture"))
    ]
    checks = [_difference("plain vLLM answers every question differently", pairs, references, yardstick)]
    if pictures:
        both = ("picture A", "picture B")
        pair = [(distance(references[both[0]], references[both[1]]), *both)] if both[0] in references else []
        checks.append(_difference("plain vLLM tells the two pictures apart", pair, references, yardstick))
    return checks


def _difference(
    name: str, pairs: Sequence[tuple[float, str, str]], references: Mapping[str, Answer], yardstick: Yardstick
) -> Check:
    if not pairs:
        return Check(name, False, "there are no two answers to compare")
    closest, one, other = min(pairs)
    limit = max(yardstick.tolerance(references[one]), yardstick.tolerance(references[other]))
    seen = "other tokens" if math.isinf(closest) else f"log-probabilities {closest:.1e} apart"
    return Check(name, closest > limit, f"the closest, {one!r} and {other!r}: {seen} (tolerance {limit:.1e})")


@dataclass(frozen=True)
class Expectation:
    """Blocks that must have been saved by P and loaded by D.

    Attributes:
        saved: By P.
        loaded: By D.
        exact: Whether these are exact numbers; with several P or D they are least numbers, since a repeated prompt may
            reach an instance that has not seen it.
    """

    saved: int
    loaded: int
    exact: bool

    def met(self, saved: int, loaded: int) -> bool:
        """Return whether the counters' growth is as expected."""
        if self.exact:
            return (saved, loaded) == (self.saved, self.loaded)
        return saved >= self.saved and loaded >= self.loaded


def expect_blocks(outcomes: Iterable[Outcome], block_size: int, *, exact: bool) -> Expectation:
    """Return what the counters must show.

    A prompt of ``n`` tokens has ``n // block_size`` full blocks, which P saves; D loads ``(n - 1) // block_size`` of
    them, since one token must be left to compute. What the scene has left behind is neither saved nor loaded again.
    """
    saved = loaded = 0
    for outcome in outcomes:
        if outcome.answer is None or outcome.shot.repeated:
            continue
        length = outcome.answer.prompt_tokens
        saved += max(0, length // block_size - outcome.shot.known_blocks)
        loaded += max(0, (length - 1) // block_size - outcome.shot.known_blocks)
    return Expectation(saved, loaded, exact)


@dataclass(frozen=True)
class Attempt:
    """One run of a scene.

    Attributes:
        outcomes: What became of its shots.
        prefill: Growth of P's counters.
        decode: Growth of D's counters.
        expectation: What they must show.
    """

    outcomes: tuple[Outcome, ...]
    prefill: Mapping[str, int]
    decode: Mapping[str, int]
    expectation: Expectation

    @property
    def failures(self) -> dict[str, int]:
        """Failed loads and saves and recomputed requests, by name; only those that happened."""
        both = (("P", self.prefill), ("D", self.decode))
        return {f"{name} {where}": grown[name] for where, grown in both for name in FAILURES if grown[name]}

    @property
    def answered(self) -> bool:
        """Whether every shot has an answer."""
        return all(outcome.answer is not None for outcome in self.outcomes)

    @property
    def travelled(self) -> bool:
        """Whether every block went the way that it should, and none failed."""
        counted = self.expectation.met(self.prefill["saved_blocks"], self.decode["loaded_blocks"])
        return self.answered and counted and not self.failures and not self.decode["saved_blocks"]

    def account(self) -> str:
        """Return what happened, for people."""
        word = "" if self.expectation.exact else "at least "
        text = (
            f"{self.prefill['saved_blocks']} saved of {word}{self.expectation.saved}, "
            f"{self.decode['loaded_blocks']} loaded of {word}{self.expectation.loaded}"
        )
        if self.decode["saved_blocks"]:
            text += f", {self.decode['saved_blocks']} saved by decode"
        if self.failures:
            text += ", " + ", ".join(f"{name} {count}" for name, count in self.failures.items())
        return text


def scene_check(name: str, attempts: Sequence[Attempt]) -> Check:
    """Return the check that a scene's blocks went from P to D, all of them, in one attempt without any failure.

    An attempt in which the DataSystem timed out is repeated under another salt: on a busy machine that happens, and the
    answer is computed instead. Answers are never excused: those of every attempt are compared.
    """
    last = attempts[-1]
    earlier = "".join(f"; attempt {number}: {each.account()}" for number, each in enumerate(attempts[:-1], start=1))
    return Check(f"blocks: {name}", last.travelled, last.account() + earlier)


def total_check(attempts: Iterable[Attempt]) -> Check:
    """Return the check that blocks travelled at all."""
    counted = [(each.prefill["saved_blocks"], each.decode["loaded_blocks"]) for each in attempts]
    saved, loaded = sum(each[0] for each in counted), sum(each[1] for each in counted)
    name = "blocks that prefill computed were loaded by decode"
    return Check(name, saved > 0 and loaded > 0, f"{saved} saved by prefill, {loaded} loaded by decode")


def picture_check(outcomes: Iterable[Outcome], block_size: int) -> Check:
    """Return the check that blocks holding picture tokens were among the loaded ones."""
    blocks = [
        (outcome.answer.prompt_tokens - 1) // block_size
        for outcome in outcomes
        if outcome.answer is not None and outcome.shot.question.name.startswith("picture") and not outcome.shot.repeated
    ]
    seen = f"{', '.join(map(str, blocks)) or 'no'} blocks to load per picture prompt"
    return Check("pictures fill blocks of their own", bool(blocks) and min(blocks) >= 1, seen)
