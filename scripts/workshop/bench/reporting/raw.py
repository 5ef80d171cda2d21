"""Raw results of one arm, all repetitions together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from workshop.bench.runs.counted import NAMES
from workshop.bench.runs.profiles import OPENING_REQUESTS, PAIR
from yrpd.errors import VerificationError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ArmResult:
    """What one arm did in one case.

    Attributes:
        ttfts: Seconds to the first token, repetitions by prompts; opening requests are left out.
        tpots: Mean seconds between the tokens of an answer, the same form.
        durations: Seconds of each repetition; one request at a time, without the opening ones.
        texts: Answers, repetition by repetition.
        prompt_tokens: Tokens of all prompts of a repetition.
        ceiling: Highest possible hit rate of each repetition.
        local: Hit rate of the device cache, by repetition.
        external: Hit rate of the DataSystem beyond that, by repetition.
        disk: The part of ``external`` that came from the DataSystem's disk, by repetition.
        counters: Growth of every counter by these prompts, by repetition.
        groups: Requests of the first pass over documents or repeated prompts.
        found: Tokens that a prompt finds at most, when it finds any.
    """

    ttfts: Array
    tpots: Array
    durations: Array
    texts: tuple[tuple[str, ...], ...]
    prompt_tokens: int
    ceiling: Array
    local: Array
    external: Array
    disk: Array
    counters: tuple[Mapping[str, float], ...] = field(repr=False)
    groups: int = 0
    found: float = 0.0

    @property
    def prompts(self) -> int:
        """Prompts of a repetition."""
        return int(self.ttfts.shape[1])

    @property
    def hit_rate(self) -> Array:
        """Hit rate of all tiers, by repetition."""
        return self.local + self.external

    @property
    def later(self) -> Array:
        """Seconds to the first token of the requests after the first pass: those that can find all that is shared."""
        return self.ttfts[:, self.groups :]

    @property
    def throughput(self) -> Array:
        """Prompts a second, by repetition."""
        return self.prompts / self.durations

    def total(self, name: str) -> float:
        """Return a counter's growth over all repetitions."""
        return float(sum(each[name] for each in self.counters))


def arm_result(raws: Sequence[Mapping[str, Any]], block_size: int) -> ArmResult:
    """Return an arm's repetitions together.

    Raises:
        VerificationError: A request failed, or a prompt had another length than it was made with.
    """
    rounds = [_Round.of(raw) for raw in raws]
    tokens = np.array([raw["dataset"]["prompt_tokens"] for raw in raws], dtype=float)

    def blocks(counts: Sequence[float]) -> Array:
        share: Array = np.array(counts, dtype=float) * block_size / tokens
        return share

    first = raws[0]["dataset"]
    return ArmResult(
        ttfts=np.array([each.ttfts for each in rounds], dtype=float),
        tpots=np.array([each.tpots for each in rounds], dtype=float),
        durations=np.array([each.duration for each in rounds], dtype=float),
        texts=tuple(tuple(each.texts) for each in rounds),
        prompt_tokens=int(first["prompt_tokens"]),
        ceiling=np.array([raw["dataset"]["ceiling"] for raw in raws], dtype=float),
        local=np.array([each.device_rate for each in rounds], dtype=float),
        external=blocks([each.counters["yuanrong_loaded_blocks_total"] for each in rounds]),
        disk=blocks([each.disk for each in rounds]),
        counters=tuple(each.counters for each in rounds),
        groups=int(first["groups"]) if first["shape"] in ("document", "repeated") else 0,
        # Every prompt but the first of its group can find something, and as much as the others.
        found=first["ceiling"] * first["prompt_tokens"] / max(1, int(first["prompts"]) - int(first["groups"])),
    )


@dataclass
class _Round:
    """One repetition, all its pieces one after the other, without their opening requests."""

    ttfts: list[float]
    tpots: list[float]
    texts: list[str]
    counters: dict[str, float]
    duration: float = 0.0
    disk: float = 0.0

    @property
    def device_rate(self) -> float:
        """Share of tokens that the device cache had."""
        # vLLM asks again for a request that found no room, so its counters are a ratio and not a number of tokens.
        queries = self.counters["vllm:prefix_cache_queries_total"]
        return self.counters["vllm:prefix_cache_hits_total"] / queries if queries else 0.0

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> _Round:
        dataset, pieces = raw["dataset"], raw["pieces"]
        results = [piece["result"] for piece in pieces]
        failed = [error for result in results for error in result["errors"] if error]
        if failed or sum(result["completed"] for result in results) != dataset["prompts"] + len(pieces):
            raise VerificationError(
                f"{len(failed)} requests of {raw['arm']} failed: {failed[:1]}", next_command="invoke bench --fresh"
            )
        lengths = sum(sum(result["input_lens"]) for result in results)
        if lengths != dataset["prompt_tokens"] + len(pieces) * dataset["opening_tokens"]:
            raise VerificationError(f"The prompts of {raw['arm']} had other lengths than they were made with.")
        found = cls([], [], [], {name: sum(piece["counters"][name] for piece in pieces) for name in NAMES})
        openings: list[float] = []
        for piece, result in zip(pieces, results, strict=True):
            openings.append(result["ttfts"][0])
            found.ttfts += result["ttfts"][1:]
            found.tpots += [float(np.mean(itl)) if itl else np.nan for itl in result["itls"][1:]]
            found.texts += result["generated_texts"][1:]
            found.disk += piece["tiers"].get("disk", 0)
            found.duration += result["duration"]
            if raw["load"]["concurrency"] == 1:  # else others go on meanwhile
                found.duration -= result["ttfts"][0] + sum(result["itls"][0])
        found._leave_out(openings, dataset["opening_tokens"], behind_router=raw["arm"] == PAIR)
        return found

    def _leave_out(self, openings: Sequence[float], tokens: int, *, behind_router: bool) -> None:
        """Take the opening requests off the counters: in the mean of three long prompts they are two of five.

        Args:
            openings: Seconds to the first token on the client's clock; each was sent once more just before.
            tokens: Their length.
            behind_router: P and then D compute them, and the counters are P's.
        """
        number = OPENING_REQUESTS * len(openings)
        seconds = OPENING_REQUESTS * sum(openings)
        if behind_router:
            inside = seconds / 2
        else:
            # What the client's clock has more than the engine's, HTTP mostly, is the same for every request.
            outside = sum(self.ttfts) + seconds - self.counters["vllm:time_to_first_token_seconds_sum"]
            inside = seconds - number * outside / (number + len(self.ttfts))
        self.counters["vllm:time_to_first_token_seconds_count"] -= number
        self.counters["vllm:time_to_first_token_seconds_sum"] -= inside
        self.counters["vllm:request_prefill_time_seconds_sum"] -= inside  # they wait for nothing
        self.counters["vllm:prefix_cache_queries_total"] -= number * tokens
