"""The READMEs' tables of benefit and cost are the stored report's, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    (case["shape"], case["length"], case["load"]): {arm["arm"]: arm for arm in case["arms"]}
    for case in json.loads((ROOT / "docs/bench/latest.json").read_text(encoding="utf-8"))["cases"]
}
# In the READMEs' order.
PRODUCT = ("baseline", "pair", "single")
SINGLE = (
    ("grouped", 1024, "c1"),
    ("grouped", 1024, "c8"),
    ("grouped", 1024, "open"),
    ("grouped", 2048, "c1"),
    ("grouped", 4096, "c1"),
    ("grouped", 8192, "c1"),
    ("multi-turn", 4096, "c1"),
    ("unique", 1024, "c1"),
)


def hits(arm: dict[str, Any]) -> str:
    return f"{100 * (arm['hit_rate']['device'] + arm['hit_rate']['datasystem']):.0f}"


def ttft(arm: dict[str, Any]) -> str:
    return f"{arm['ttft_ms']['mean']['value']:,.0f}"


def tpot(arm: dict[str, Any], digits: int = 0) -> str:
    return f"{arm['tpot_ms']['mean']['value']:.{digits}f}"


def speed(arm: dict[str, Any]) -> float:
    return float(arm["prompts_per_second"]["value"])


def product_row(arm: dict[str, Any]) -> list[str]:
    return [f"{hits(arm)} %", f"{ttft(arm)} ms", f"{tpot(arm, 1)} ms", f"{speed(arm):.2f}"]


def single_row(plain: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    return [
        f"{hits(plain)} → {hits(ours)} %",
        f"{ttft(plain)} → {ttft(ours)} ms",
        f"{tpot(plain)} → {tpot(ours)} ms",
        f"× {speed(ours) / speed(plain):.2f}",
    ]


def tables(readme: str) -> list[list[str]]:
    """The cells behind the first one of all rows that hold milliseconds, without emphasis."""
    rows = [line.strip("| ").replace("*", "").split(" | ") for line in readme.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row[1:]] for row in rows if len(row) == 5 and " ms" in row[2]]


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_every_figure_of_a_readme_is_the_reports(name: str) -> None:
    wanted = [product_row(CASES[("grouped", 1024, "c1")][arm]) for arm in PRODUCT]
    wanted += [single_row(CASES[case]["baseline"], CASES[case]["single"]) for case in SINGLE]
    assert tables((ROOT / name).read_text(encoding="utf-8")) == wanted


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_what_is_slower_than_plain_vllm_is_bold(name: str) -> None:
    rows = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if " → " in line and " ms" in line]
    for case, row in zip(SINGLE, rows, strict=True):
        plain, ours = CASES[case]["baseline"], CASES[case]["single"]
        slower = [ours[what]["mean"]["value"] > plain[what]["mean"]["value"] for what in ("ttft_ms", "tpot_ms")]
        assert [f"**{text(ours)} ms**" in row for text in (ttft, tpot)] == slower
        assert ("**×" in row) == (round(speed(ours) / speed(plain), 2) < 1)
