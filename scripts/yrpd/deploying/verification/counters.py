"""The connector's counters on ``/metrics``, before and after. Pure but for their reading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

NAMES = (
    "loaded_blocks",
    "saved_blocks",
    "loaded_bytes",
    "saved_bytes",
    "matched_tokens",
    "queried_tokens",
    "load_failures",
    "save_failures",
    "recomputed_requests",
)
_SAMPLE = re.compile(r"^(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)(\{[^}]*\})?\s+(?P<value>\S+)")


def read_counters(text: str) -> dict[str, float]:
    """Return the connector's counters out of an exposition in Prometheus's text format, summed over their labels.

    Counters that do not appear yet are 0.
    """
    found = dict.fromkeys(NAMES, 0.0)
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if not sample or not sample["name"].startswith("yuanrong_"):
            continue
        name = sample["name"].removeprefix("yuanrong_").removesuffix("_total")
        if name in found:
            found[name] += float(sample["value"])
    return found


def breaker_is_open(text: str) -> bool:
    """Return whether a connector counts its DataSystem worker as out of reach."""
    samples = [sample for line in text.splitlines() if (sample := _SAMPLE.match(line))]
    return any(sample["name"] == "yuanrong_breaker_open" and float(sample["value"]) > 0 for sample in samples)


def total(readings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum over several instances."""
    found = dict.fromkeys(NAMES, 0.0)
    for reading in readings:
        for name in NAMES:
            found[name] += reading[name]
    return found


def nothing() -> dict[str, int]:
    """Return counters that did not grow."""
    return dict.fromkeys(NAMES, 0)


def growth(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, int]:
    """Return by how much each counter grew."""
    return {name: round(after[name] - before[name]) for name in NAMES}
