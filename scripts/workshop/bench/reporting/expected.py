"""Measured first tokens beside what the model of docs/bench/model.md makes of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workshop.bench.bound import Prefill, Work, fit, ideal_cut
from workshop.bench.reporting.intervals import mean
from workshop.bench.reporting.raw import ArmResult
from workshop.bench.runs.profiles import BASELINE, ONE, SINGLE

Results = Mapping[tuple[str, int, str], Mapping[str, ArmResult]]


def against_model(results: Results) -> dict[str, Any]:
    """Fit plain vLLM's cost and the loads' bandwidth, and predict ours from them; one request at a time only.

    Args:
        results: All cases, ``(shape, length, load)`` by arm.

    Returns:
        ``{fixed_s, per_token_s, per_pair_s, load_bytes_per_second, rows}``; a row has mean seconds to the first token:
        ``plain`` and ``ours`` measured, ``model`` with loads at the measured bandwidth, ``limit`` with loads that take
        no time, and the shares of TTFT that are saved: ``cut`` measured, ``limit_cut``, and ``ideal_cut`` by hit rates.
        Empty when nothing was measured one request at a time.
    """
    alone = {
        key: arms
        for key, arms in sorted(results.items())
        # The model is of prompts of one length, which turns of a conversation are not.
        if key[2] == ONE.name and key[0] != "multi-turn" and {BASELINE, SINGLE} <= set(arms)
    }
    if not alone:
        return {}
    prefill = fit([(_work(length, arms[BASELINE]), _ttft(arms[BASELINE])) for (_, length, _), arms in alone.items()])
    loaded, seconds = (
        sum(arms[SINGLE].total(name) for arms in alone.values())
        for name in ("yuanrong_loaded_bytes_total", "yuanrong_load_seconds_sum")
    )
    bandwidth = loaded / seconds if seconds else 0.0
    return {
        "fixed_s": prefill.fixed,
        "per_token_s": prefill.per_token,
        "per_pair_s": prefill.per_pair,
        "load_bytes_per_second": bandwidth,
        "rows": [_row(shape, length, arms, prefill, bandwidth) for (shape, length, _), arms in alone.items()],
    }


def _row(shape: str, length: int, arms: Mapping[str, ArmResult], prefill: Prefill, bandwidth: float) -> dict[str, Any]:
    plain, ours = arms[BASELINE], arms[SINGLE]
    limit = prefill.cost(_work(length, ours))
    requests = ours.prompts * len(ours.durations)
    loading = ours.total("yuanrong_loaded_bytes_total") / requests / bandwidth if bandwidth else 0.0
    before = _ttft(plain)
    return {
        "shape": shape,
        "length": length,
        "plain": before,
        "plain_model": prefill.cost(_work(length, plain)),
        "ours": _ttft(ours),
        "model": limit + loading,
        "limit": limit,
        "cut": 1 - _ttft(ours) / before,
        "limit_cut": 1 - limit / before,
        "ideal_cut": ideal_cut(float(plain.hit_rate.mean()), float(ours.hit_rate.mean())),
    }


def _work(length: int, arm: ArmResult) -> Work:
    return Work.mean(length, float(arm.hit_rate.mean()), arm.found)


def _ttft(arm: ArmResult) -> float:
    return mean(arm.ttfts).value
