"""The benchmark's targets, as shares of what is possible. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workshop.bench.bound import ideal_cut, ideal_gain
from workshop.bench.reporting.intervals import mean, ratio_of_cuts, ratio_of_means
from workshop.bench.reporting.raw import ArmResult
from workshop.bench.runs.profiles import BASELINE, LARGE, OPEN, PAIR, SINGLE
from workshop.bench.statistics import Estimate

HIT_RATE, GAIN, CUT = "hit rate / ceiling", "throughput gain / ideal gain", "TTFT cut / ideal cut"
FULL_HIT = "TTFT on a full DataSystem hit / on a full local hit"
NO_REUSE, MUCH_REUSE = "TTFT without reuse, ours / plain vLLM", "TTFT with 90 % reuse, ours / plain vLLM without reuse"
OF_CACHE_GAIN = "throughput gain / gain of a device cache that holds everything"
OF_CACHE_CUT = "TTFT cut / cut of a device cache that holds everything"
OF_CACHE_REUSE = "TTFT with 90 % reuse, ours / in a device cache that holds everything"
ANSWERS = "answers equal to plain vLLM's"
AT_LEAST = {HIT_RATE: 0.99, GAIN: 0.97, CUT: 0.97, OF_CACHE_GAIN: 0.97, OF_CACHE_CUT: 0.97, ANSWERS: 1.0}
AT_MOST = {FULL_HIT: 1.25, NO_REUSE: 1.02, MUCH_REUSE: 0.15, OF_CACHE_REUSE: 1.25}

Case = tuple[str, int, str]
Results = Mapping[Case, Mapping[str, ArmResult]]


@dataclass(frozen=True)
class Target:
    """One row.

    Attributes:
        name: What is compared.
        length: Tokens of a prompt.
        load: How requests came.
        estimate: The value with its interval.
    """

    name: str
    length: int
    load: str
    estimate: Estimate

    @property
    def met(self) -> bool:
        """Whether the value keeps its bound."""
        value = round(self.estimate.value, 4)
        return value >= AT_LEAST[self.name] if self.name in AT_LEAST else value <= AT_MOST[self.name]

    @property
    def bound(self) -> str:
        """The bound, for people."""
        return f">= {AT_LEAST[self.name]:g}" if self.name in AT_LEAST else f"<= {AT_MOST[self.name]:g}"

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "length": self.length,
            "load": self.load,
            "value": round(self.estimate.value, 4),
            "low": round(self.estimate.low, 4),
            "high": round(self.estimate.high, 4),
            "target": self.bound,
            "met": self.met,
        }


def targets(results: Results) -> list[Target]:
    """Return every target that the cases of a run can speak of."""
    return sorted(_targets(results), key=lambda target: (list(AT_LEAST | AT_MOST).index(target.name), target.length))


def _targets(results: Results) -> Iterator[Target]:
    for (shape, length, load), arms in results.items():
        ours = arms[SINGLE]
        if shape == "grouped":
            base = arms[BASELINE]
            yield Target(HIT_RATE, length, load, ratio_of_means(ours.hit_rate, ours.ceiling))
            before, after = float(base.hit_rate.mean()), float(ours.hit_rate.mean())
            gain = ratio_of_means(base.durations, ours.durations)
            if ideal_gain(before, after) > 1:
                if load != OPEN.name:  # where what is done is what arrives
                    yield Target(GAIN, length, load, gain.scaled(1 / ideal_gain(before, after)))
                left = ratio_of_means(ours.ttfts, base.ttfts)
                ideal = ideal_cut(before, after)
                cut = Estimate((1 - left.value) / ideal, (1 - left.high) / ideal, (1 - left.low) / ideal)
                yield Target(CUT, length, load, cut)
            if LARGE in arms:
                most = arms[LARGE]
                yield Target(OF_CACHE_GAIN, length, load, ratio_of_means(most.durations, ours.durations))
                yield Target(OF_CACHE_CUT, length, load, ratio_of_cuts(ours.ttfts, most.ttfts, base.ttfts))
        if shape == "multi-turn":
            yield Target(HIT_RATE, length, f"{shape} {load}", ratio_of_means(ours.hit_rate, ours.ceiling))
        if shape == "repeated":
            yield Target(FULL_HIT, length, load, ratio_of_means(ours.later, arms[LARGE].later))
        if shape == "unique":
            yield Target(NO_REUSE, length, load, ratio_of_means(ours.ttfts, arms[BASELINE].ttfts))
        if shape == "document" and not arms[BASELINE].hit_rate.any():
            # Plain vLLM finds nothing of these prompts either, and was asked for them next to ours.
            yield Target(MUCH_REUSE, length, load, ratio_of_means(ours.later, arms[BASELINE].later))
            if LARGE in arms:
                yield Target(OF_CACHE_REUSE, length, load, ratio_of_means(ours.later, arms[LARGE].later))
        other = arms.get(BASELINE) or arms[LARGE]
        for arm, name in ((SINGLE, load), (PAIR, f"{load}, 1P1D")):
            if arm in arms:
                equal, asked = equal_answers(arms[arm], other)
                yield Target(ANSWERS, length, f"{shape} {name}", Estimate(equal / asked, equal / asked, equal / asked))


def equal_answers(ours: ArmResult, other: ArmResult) -> tuple[int, int]:
    """Return how many greedy answers of two arms to the same prompts are equal, and how many there are."""
    pairs = [
        (a, b) for mine, theirs in zip(ours.texts, other.texts, strict=True) for a, b in zip(mine, theirs, strict=True)
    ]
    return sum(a == b for a, b in pairs), len(pairs)


def first_token(arm: ArmResult) -> dict[str, float]:
    """Return where the mean time of a first token goes, in seconds: engine's own histograms beside the client's clock.

    vLLM counts a request as queued while its blocks are loaded, so ``queue`` includes ``load``.
    """
    requests = max(arm.total("vllm:time_to_first_token_seconds_count"), 1.0)
    engine = arm.total("vllm:time_to_first_token_seconds_sum") / requests
    loads = arm.total("yuanrong_load_seconds_sum") / requests
    return {
        "client": mean(arm.ttfts).value,
        "engine": engine,
        "queue": arm.total("vllm:request_queue_time_seconds_sum") / requests,
        "load": loads,
        "prefill": arm.total("vllm:request_prefill_time_seconds_sum") / requests,
        "decode_step": mean(arm.tpots).value,
    }
