"""A report as a document, as Markdown and as a table for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from workshop.bench.bound import ideal_cut, ideal_gain
from workshop.bench.reporting.expected import against_model
from workshop.bench.reporting.intervals import mean, percentile
from workshop.bench.reporting.raw import ArmResult
from workshop.bench.reporting.targets import Results, Target, first_token
from workshop.bench.runs.profiles import BASELINE, SINGLE
from workshop.bench.statistics import Estimate

ARM_NAMES = {"baseline": "plain vLLM", "large": "plain vLLM, large cache", "single": "ours", "pair": "ours, 1P1D"}


def document(
    results: Results, rows: Sequence[Target], command: str, environment: Mapping[str, Any], record: str
) -> dict[str, Any]:
    """Return the report: the targets first, then every figure behind them.

    Args:
        results: All cases.
        rows: The targets.
        command: What was typed.
        environment: The run's configuration.
        record: SHA-256 over the raw files' hashes, so that a report names what it was computed from.
    """
    return {
        "targets": [row.document() for row in rows],
        "command": command,
        "environment": dict(environment),
        "raw_sha256": record,
        "model": against_model(results),
        "cases": [_case(key, arms) for key, arms in sorted(results.items())],
    }


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    environment = report["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    lines = [
        "# Benchmark report",
        "",
        f"`{report['command']}`, profile `{environment['profile']}`, {environment['cpus']} cores of"
        f" {environment['processor']}; {packages}; connector {environment['connector']}; device cache"
        f" {environment['device_tokens']:,} tokens, block size {environment['block_size']},"
        f" {environment['kv_bytes_per_token']:,} bytes of KV per token. Values are followed by their 95 % bootstrap"
        " interval. The figures are computed by `invoke bench.report` from the raw results of the run"
        f" (`{report['raw_sha256'][:16]}`).",
        "",
        "## Targets",
        "| what | length | load | value | interval | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["targets"]:
        interval = f"{row['low']:.3f} .. {row['high']:.3f}"
        verdict = "yes" if row["met"] else "**no**"
        lines.append(
            f"| {row['name']} | {row['length']} | {row['load']} | {row['value']:.3f} | {interval} | {row['target']}"
            f" | {verdict} |"
        )
    lines += ["", "## Hit rate and throughput", _HITS_HEAD, "|---" * 10 + "|"]
    for case in report["cases"]:
        for arm in case["arms"]:
            rate = arm["hit_rate"]
            lines.append(
                f"{_where(case, arm)} | {rate['device']:.1%} | {rate['datasystem']:.1%} | {arm['from_disk']:.1%}"
                f" | {case['ceiling']:.1%}"
                f" | {_value(arm['prompts_per_second'])}"
                f" | {arm['loaded_bytes'] / 2**20:,.0f} / {arm['saved_bytes'] / 2**20:,.0f} |"
            )
    lines += ["", "## TTFT and TPOT, milliseconds", _TIMES_HEAD, "|---" * 9 + "|"]
    for case in report["cases"]:
        for arm in case["arms"]:
            times = [_value(arm["ttft_ms"][name]) for name in ("mean", "p50", "p90", "p99")]
            lines.append(f"{_where(case, arm)} | {' | '.join(times)} | {_value(arm['tpot_ms']['mean'])} |")
    lines += ["", "## Where the time of a first token goes, mean milliseconds", _PARTS_HEAD, "|---" * 10 + "|"]
    for case in report["cases"]:
        for arm in case["arms"]:
            parts = [f"{1000 * arm['first_token_s'][name]:.1f}" for name in _PARTS]
            lines.append(f"{_where(case, arm)} | {' | '.join(parts)} |")
    lines += ["", "Queue includes waiting for a load, as vLLM counts it; engine is the server's own clock.", ""]
    lines += _model_lines(report["model"])
    return "\n".join(lines)


def _model_lines(model: Mapping[str, Any]) -> list[str]:
    if not model:
        return []
    lines = [
        "## Against the model",
        f"Fitted to plain vLLM, one request at a time: {1000 * model['fixed_s']:.1f} ms for every request,"
        f" {1e6 * model['per_token_s']:.1f} us for a token, {1e9 * model['per_pair_s']:.2f} ns for a pair of tokens."
        f" Loads brought {model['load_bytes_per_second'] / 2**20:,.0f} MiB/s. Mean TTFT in milliseconds; *limit* is the"
        " model with loads that take no time.",
        "",
        "| dataset | length | plain vLLM | its model | ours | its model | limit | cut | cut of the limit | ideal cut |",
        "|---" * 10 + "|",
    ]
    for row in model["rows"]:
        times = [f"{1000 * row[name]:.1f}" for name in ("plain", "plain_model", "ours", "model", "limit")]
        cuts = [f"{row[name]:.1%}" for name in ("cut", "limit_cut", "ideal_cut")]
        lines.append(f"| {row['shape']} | {row['length']} | {' | '.join([*times, *cuts])} |")
    return [*lines, ""]


def target_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the targets for people."""
    table = Table("what", "length", "load", "value", "interval", "target", "met")
    for row in rows:
        interval = f"{row['low']:.3f} .. {row['high']:.3f}"
        cells = (row["name"], str(row["length"]), row["load"], f"{row['value']:.3f}", interval, row["target"])
        table.add_row(*cells, "yes" if row["met"] else "no", style=None if row["met"] else "red")
    return table


_HITS_HEAD = (
    "| dataset | length | load | arm | device cache | DataSystem | of it from disk | ceiling | prompts/s"
    " | MiB loaded / saved |"
)
_TIMES_HEAD = "| dataset | length | load | arm | TTFT mean | p50 | p90 | p99 | TPOT mean |"
_PARTS = ("client", "engine", "queue", "load", "prefill", "decode_step")
_PARTS_HEAD = "| dataset | length | load | arm | client | engine | queue | load | prefill | decode step |"


def _case(key: tuple[str, int, str], arms: Mapping[str, ArmResult]) -> dict[str, Any]:
    shape, length, load = key
    found: dict[str, Any] = {
        "shape": shape,
        "length": length,
        "load": load,
        "repetitions": len(next(iter(arms.values())).durations),
        "prompts": next(iter(arms.values())).prompts,
        "ceiling": float(arms[SINGLE].ceiling.mean()),
        "arms": [_arm(name, arm) for name, arm in arms.items()],
    }
    if BASELINE in arms:
        before, after = float(arms[BASELINE].hit_rate.mean()), float(arms[SINGLE].hit_rate.mean())
        found["ideal"] = {"gain": ideal_gain(before, after), "cut": ideal_cut(before, after)}
    return found


def _arm(name: str, arm: ArmResult) -> dict[str, Any]:
    percentiles = {f"p{rank}": _times(percentile(arm.ttfts, rank)) for rank in (50, 90, 99)}
    return {
        "arm": name,
        "hit_rate": {"device": float(arm.local.mean()), "datasystem": float(arm.external.mean())},
        "from_disk": float(arm.disk.mean()),
        "prompts_per_second": _estimate(mean(arm.throughput)),
        "ttft_ms": {"mean": _times(mean(arm.ttfts)), **percentiles},
        "ttft_later_ms": _times(mean(arm.later)) if arm.groups else None,
        "tpot_ms": {
            "mean": _times(mean(arm.tpots)),
            **{f"p{rank}": _times(percentile(arm.tpots, rank)) for rank in (50, 90, 99)},
        },
        "loaded_bytes": arm.total("yuanrong_loaded_bytes_total"),
        "saved_bytes": arm.total("yuanrong_saved_bytes_total"),
        "failures": arm.total("yuanrong_load_failures_total") + arm.total("yuanrong_save_failures_total"),
        "recomputed": arm.total("yuanrong_recomputed_requests_total"),
        "first_token_s": first_token(arm),
    }


def _where(case: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    return f"| {case['shape']} | {case['length']} | {case['load']} | {ARM_NAMES[arm['arm']]}"


def _times(value: Estimate) -> dict[str, float]:
    return _estimate(value.scaled(1000))


def _estimate(value: Estimate) -> dict[str, float]:
    return {"value": round(value.value, 3), "low": round(value.low, 3), "high": round(value.high, 3)}


def _value(value: Mapping[str, float]) -> str:
    return f"{value['value']:.4g} ({value['low']:.4g} .. {value['high']:.4g})"
