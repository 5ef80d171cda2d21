"""The tutorial's figure: hit rate, throughput and TTFT by prompt length, for plain vLLM and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workshop.bench.runs.profiles import EIGHT, ONE

_ARMS = (("baseline", "plain vLLM", "#9aa5b1", ""), ("single", "with the DataSystem", "#1b5e8c", "//"))


def draw(report: Mapping[str, Any], paths: Sequence[Path]) -> bool:
    """Draw the grouped cases of the load with the most lengths, the higher concurrency of two; tell if there were any.

    Args:
        report: The report's document.
        paths: Files to write; their suffixes decide the format.
    """
    grouped = [case for case in report["cases"] if case["shape"] == "grouped"]
    load, cases = max(
        ((name, [case for case in grouped if case["load"] == name]) for name in (EIGHT.name, ONE.name)),
        key=lambda found: len(found[1]),
    )
    cases.sort(key=lambda case: int(case["length"]))
    if not cases:
        return False
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    rate, throughput, ttft = figure.subplots(1, 3)
    _bars(rate, cases, lambda arm: _exact(100 * sum(arm["hit_rate"].values())), "hit rate, %")
    for place, case in enumerate(cases):
        rate.hlines(100 * case["ceiling"], place - 0.45, place + 0.45, color="black", linestyle="--", linewidth=1)
    _bars(throughput, cases, lambda arm: arm["prompts_per_second"], "throughput, prompts/s")
    _ideal(throughput, cases, "prompts_per_second", "gain")
    _bars(ttft, cases, lambda arm: arm["ttft_ms"]["mean"], "mean TTFT, ms")
    _ideal(ttft, cases, "ttft_ms", "cut")
    figure.legend(*rate.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    figure.suptitle(
        f"50 % shared prefix, {'8 requests at a time' if load == EIGHT.name else 'one request at a time'};"
        " dashed: ceiling, dotted: ideal",
        fontsize=10,
    )
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a date a report drawn again is the same file.
        options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 200}
        with matplotlib.rc_context({"svg.hashsalt": "yrpd"}):
            figure.savefig(path, **options)
    return True


def _bars(axes: Axes, cases: Sequence[Mapping[str, Any]], value: Any, title: str) -> None:
    for number, (arm, name, colour, hatch) in enumerate(_ARMS):
        places = [place + (number - 0.5) * 0.4 for place in range(len(cases))]
        found = [value(_arm(case, arm)) for case in cases]
        heights = [each["value"] for each in found]
        spread = [
            [max(0.0, each["value"] - each["low"]) for each in found],
            [max(0.0, each["high"] - each["value"]) for each in found],
        ]
        bars = axes.bar(places, heights, 0.38, label=name, color=colour, hatch=hatch, edgecolor="white")
        axes.errorbar(places, heights, yerr=spread, fmt="none", ecolor="black", capsize=2, linewidth=0.8)
        axes.bar_label(bars, fmt=_label, fontsize=7, padding=3)
    axes.set_xticks(range(len(cases)), [f"{int(case['length']) // 1024}K" for case in cases])
    axes.set_xlabel("prompt length, tokens")
    axes.set_title(title, fontsize=10)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ideal(axes: Axes, cases: Sequence[Mapping[str, Any]], name: str, kind: str) -> None:
    for place, case in enumerate(cases):
        base = _arm(case, "baseline")[name]
        value = base["value"] * case["ideal"]["gain"] if kind == "gain" else base["mean"]["value"]
        value = value if kind == "gain" else value * (1 - case["ideal"]["cut"])
        axes.hlines(value, place - 0.05, place + 0.45, color="black", linestyle=":", linewidth=1.2)


def _arm(case: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(arm for arm in case["arms"] if arm["arm"] == name)
    return found


def _exact(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}
