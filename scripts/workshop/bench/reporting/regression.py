"""Compares a report with a stored one, target by target: ratios, which another day's machine does not bend. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workshop.bench.reporting.targets import AT_LEAST
from yrpd.errors import ConfigurationError

TOLERANCE = 0.05
#: What has to be equal for two reports to be compared; versions and the connector are what may change.
SAME = ("profile", "cases", "device_tokens", "block_size", "model_digest", "cpus", "machine")


def regressions(report: Mapping[str, Any], stored: Mapping[str, Any], tolerance: float = TOLERANCE) -> list[str]:
    """Return a sentence for each target that is worse than it was, by more than its interval and the tolerance.

    Raises:
        ConfigurationError: The two were not measured in the same way.
    """
    now, then = report["environment"], stored["environment"]
    if differing := [key for key in SAME if now.get(key) != then.get(key)]:
        raise ConfigurationError(
            f"The reports do not compare: {', '.join(differing)} differ.",
            next_command="invoke bench --profile " + str(then.get("profile")),
        )
    before = {_key(row): row for row in stored["targets"]}
    found = []
    for row in report["targets"]:
        old = before.pop(_key(row), None)
        if old is None:
            continue
        more_is_better = row["name"] in AT_LEAST
        change = row["value"] / old["value"] - 1 if old["value"] else 0.0
        worse = -change if more_is_better else change
        apart = row["high"] < old["low"] if more_is_better else row["low"] > old["high"]
        if worse > tolerance and apart:
            found.append(
                f"{row['name']} at {row['length']} ({row['load']}): {old['value']:.3f} became {row['value']:.3f}"
            )
    found += [f"{name} at {length} ({load}): not measured any more" for name, length, load in before]
    return found


def _key(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["name"], row["length"], row["load"]
