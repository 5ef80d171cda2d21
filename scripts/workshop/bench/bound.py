"""What a first token has to cost: formulas of docs/bench/model.md. Pure.

Sources: the linear part is that every token passes the same weights; the quadratic one that every token attends to all
before it. "Ideal" follows from the definition of a hit alone: found tokens cost nothing, all others what they did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Work:
    """What is left to compute of a prompt, or the mean of many prompts.

    Attributes:
        tokens: Tokens that were not found.
        pairs: How often one of them attends to a token before it.
    """

    tokens: float
    pairs: float

    @classmethod
    def mean(cls, prompt: float, hit_rate: float, found: float) -> Work:
        """Return the mean work of prompts of one length, some of which find their beginning and some nothing.

        Args:
            prompt: Tokens of each prompt.
            hit_rate: Share of all tokens that was found, of 1.
            found: Tokens that a prompt finds when it finds any.
        """
        finding = hit_rate * prompt / found if found else 0.0
        return cls(prompt * (1 - hit_rate), (prompt * prompt - finding * found * found) / 2)


@dataclass(frozen=True)
class Prefill:
    """What computing a prompt costs on one instance, with nobody else there.

    Attributes:
        fixed: Seconds of every request: HTTP, tokenizing, scheduling, sampling.
        per_token: Seconds of one token through the weights.
        per_pair: Seconds of one token attending to one other.
    """

    fixed: float
    per_token: float
    per_pair: float = 0.0

    def seconds(self, prompt: float, found: float = 0.0) -> float:
        """Return the seconds of a prompt of which the first ``found`` tokens need no computing."""
        return self.cost(Work(prompt - found, (prompt * prompt - found * found) / 2))

    def cost(self, work: Work) -> float:
        """Return the seconds of a request's work."""
        return self.fixed + work.tokens * self.per_token + work.pairs * self.per_pair


def expected_ttft(
    prefill: Prefill, prompt: float, hit_rate: float, bytes_per_token: float, link_bytes_per_second: float
) -> float:
    """Return the seconds to the first token when found tokens are loaded first and the others computed then.

    Args:
        prefill: The instance.
        prompt: Tokens of the prompt.
        hit_rate: Share of them that is found, of 1, from the first token on.
        bytes_per_token: Keys and values of a token.
        link_bytes_per_second: How fast they are loaded; infinity for nothing to load.
    """
    found = prompt * hit_rate
    return prefill.seconds(prompt, found) + found * bytes_per_token / link_bytes_per_second


def ideal_gain(before: float, after: float) -> float:
    """Return the throughput over the baseline's, when only misses cost anything (hit rates of 1)."""
    return (1 - before) / (1 - after)


def ideal_cut(before: float, after: float) -> float:
    """Return the share of TTFT that is saved, when only misses cost anything (hit rates of 1)."""
    return 1 - (1 - after) / (1 - before)


def break_even_bandwidth(bytes_per_token: float, tokens_per_second: float) -> float:
    """Return the bytes a second below which loading a token takes longer than computing it."""
    return bytes_per_token * tokens_per_second


def fit(points: Sequence[tuple[Work, float]]) -> Prefill:
    """Return the prefill cost that fits (work, seconds) best, by least squares of relative errors.

    No part comes out negative; with fewer than three different points the quadratic part is left out, with fewer than
    two the fixed one too.

    Raises:
        ValueError: There is no point.
    """
    if not points:
        raise ValueError("no points")
    works = [work for work, _ in points]
    seconds = np.array([second for _, second in points], dtype=float)
    columns = {
        "per_token": np.array([work.tokens for work in works], dtype=float),
        "fixed": np.ones_like(seconds),
        "per_pair": np.array([work.pairs for work in works], dtype=float),
    }
    names = list(columns)[: min(3, len(set(works)))]
    from scipy.optimize import nnls

    weights = 1 / seconds
    solution, _ = nnls(np.stack([columns[name] * weights for name in names], axis=1), np.ones_like(seconds))
    found = dict(zip(names, (float(value) for value in solution), strict=True))
    return Prefill(found.get("fixed", 0.0), found["per_token"], found.get("per_pair", 0.0))
