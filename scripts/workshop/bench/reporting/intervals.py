"""Values with 95 % bootstrap intervals (scipy's percentile method, a fixed seed). Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from workshop.bench.reporting.raw import Array
from workshop.bench.statistics import CONFIDENCE, RESAMPLES, Estimate


def mean(values: Array) -> Estimate:
    """Return the mean of all values."""
    return _bootstrap((values.ravel(),), lambda x, axis: np.mean(x, axis=axis))


def percentile(values: Array, rank: float) -> Estimate:
    """Return a percentile of all values."""
    return _bootstrap((values.ravel(),), lambda x, axis: np.percentile(x, rank, axis=axis))


def ratio_of_means(numerator: Array, denominator: Array) -> Estimate:
    """Return the ratio of two means; values at the same place belong to the same prompt, when there are as many."""
    paired = numerator.size == denominator.size
    return _bootstrap(
        (numerator.ravel(), denominator.ravel()),
        lambda x, y, axis: np.mean(x, axis=axis) / np.mean(y, axis=axis),
        paired=paired,
    )


def ratio_of_cuts(one: Array, other: Array, base: Array) -> Estimate:
    """Return how much of ``base`` one saves for what another saves; values at the same place are of the same prompt."""
    return _bootstrap(
        (one.ravel(), other.ravel(), base.ravel()),
        lambda x, y, z, axis: (
            (np.mean(z, axis=axis) - np.mean(x, axis=axis)) / (np.mean(z, axis=axis) - np.mean(y, axis=axis))
        ),
        paired=True,
    )


def _bootstrap(samples: tuple[Array, ...], statistic: Callable[..., Any], paired: bool = False) -> Estimate:
    samples = tuple(sample[~np.isnan(sample)] for sample in samples)
    value = float(statistic(*samples, axis=-1))
    if min(sample.size for sample in samples) < 2:
        return Estimate(value, value, value)
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        paired=paired,
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(1),
        batch=200,
    )
    return Estimate(value, float(found.confidence_interval.low), float(found.confidence_interval.high))
