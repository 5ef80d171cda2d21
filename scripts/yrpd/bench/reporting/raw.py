"""Raw results of one arm, all repetitions together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from yrpd.errors import VerificationError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ArmResult:
    """What one arm did in one case.

    Attributes:
        ttfts: Seconds to the first token, repetitions by prompts; the opening request is left out.
        tpots: Mean seconds between the tokens of an answer, the same form.
        durations: Seconds of each repetition.
        texts: Answers, repetition by repetition.
        prompt_tokens: Tokens of all prompts of a repetition.
        ceiling: Highest possible hit rate of each repetition.
        local: Hit rate of the device cache, by repetition.
        external: Hit rate of the DataSystem beyond that, by repetition.
        disk: The part of ``external`` that came from the DataSystem's disk, by repetition.
        counters: Growth of every counter, by repetition.
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
    ttfts, tpots, texts, local, external, disk = [], [], [], [], [], []
    for raw in raws:
        result, dataset, counted = raw["result"], raw["dataset"], raw["counters"]
        opening, prompts = int(dataset["opening_tokens"]), int(dataset["prompts"])
        failed = [error for error in result["errors"] if error]
        if failed or result["completed"] != prompts + 1:
            raise VerificationError(
                f"{len(failed)} requests of {raw['arm']} failed: {failed[:1]}", next_command="invoke bench --fresh"
            )
        if sum(result["input_lens"]) != dataset["prompt_tokens"] + opening:
            raise VerificationError(f"The prompts of {raw['arm']} had other lengths than they were made with.")
        ttfts.append(result["ttfts"][1:])
        tpots.append([float(np.mean(itl)) if itl else np.nan for itl in result["itls"][1:]])
        texts.append(tuple(result["generated_texts"][1:]))
        # vLLM asks again for a request that found no room, so its counters are a ratio and not a number of tokens.
        queries = counted["vllm:prefix_cache_queries_total"]
        hits = counted["vllm:prefix_cache_hits_total"] / queries if queries else 0.0
        asked = dataset["prompt_tokens"] + 2 * opening
        local.append(hits * asked / dataset["prompt_tokens"])
        external.append(counted["yuanrong_loaded_blocks_total"] * block_size / dataset["prompt_tokens"])
        disk.append(raw["tiers"].get("disk", 0) * block_size / dataset["prompt_tokens"])
    first = raws[0]["dataset"]
    return ArmResult(
        np.array(ttfts, dtype=float),
        np.array(tpots, dtype=float),
        np.array([raw["result"]["duration"] for raw in raws], dtype=float),
        tuple(texts),
        int(first["prompt_tokens"]),
        np.array([raw["dataset"]["ceiling"] for raw in raws], dtype=float),
        np.array(local, dtype=float),
        np.array(external, dtype=float),
        np.array(disk, dtype=float),
        tuple(raw["counters"] for raw in raws),
        int(first["groups"]) if first["shape"] in ("document", "repeated") else 0,
        # Every prompt but the first of its group can find something, and as much as the others.
        first["ceiling"] * first["prompt_tokens"] / max(1, int(first["prompts"]) - int(first["groups"])),
    )
