"""Numbers from interleaved measurements: pure functions.

On a shared machine the speed of everything drifts together. So the arms of a comparison run in turn, A B B A, each
round gives one ratio, and the median of these ratios is what counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A median and the range that its bootstrap gives it.

    Attributes:
        value: The median.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """Return the same estimate in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def alternation(arms: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """Return ``(round, arm)`` in the order A B B A A B B A ..., so that a steady drift favours no arm."""
    order: list[tuple[int, str]] = []
    for number in range(rounds):
        order += [(number, arm) for arm in (arms if number % 2 == 0 else list(reversed(arms)))]
    return order


def measure(arms: Mapping[str, Callable[[int], float]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run all arms in alternation.

    Args:
        arms: Name -> what does one round's work and returns the figure, usually its own seconds; it gets the round's
            number, which no other round has.
        rounds: Rounds that count.
        warm_up: Rounds before them that do not.

    Returns:
        Name -> one figure per round.
    """
    figures: dict[str, list[float]] = {name: [] for name in arms}
    for number, name in alternation(list(arms), warm_up + rounds):
        figure = arms[name](number)
        if number >= warm_up:
            figures[name].append(figure)
    return figures


def estimate(samples: Sequence[float], seed: int = 1) -> Estimate:
    """Return the median with its 95 % percentile bootstrap interval.

    Raises:
        ValueError: There is no sample.
    """
    if not samples:
        raise ValueError("no samples")
    draw = random.Random(seed)  # noqa: S311 - resampling, not secrets
    medians = sorted(median(draw.choices(samples, k=len(samples))) for _ in range(RESAMPLES))
    tail = int((1 - CONFIDENCE) / 2 * RESAMPLES)
    return Estimate(float(median(samples)), float(medians[tail]), float(medians[-1 - tail]))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Estimate:
    """Return the estimate of ``numerator / denominator``, round by round."""
    return estimate([n / d for n, d in zip(numerator, denominator, strict=True)])


def paired_difference(left: Sequence[float], right: Sequence[float]) -> Estimate:
    """Return the estimate of ``left - right``, round by round."""
    return estimate([a - b for a, b in zip(left, right, strict=True)])
