"""The connector's counters on ``/metrics``, before and after. Pure but for their reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families

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


def samples(text: str) -> Iterator[tuple[str, float]]:
    """Yield name and value of every sample of an exposition in Prometheus's text format, whatever its labels."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, float(sample.value)


def read_counters(text: str) -> dict[str, float]:
    """Return the connector's counters out of an exposition in Prometheus's text format, summed over their labels.

    Counters that do not appear yet are 0.
    """
    found = dict.fromkeys(NAMES, 0.0)
    for sample, value in samples(text):
        name = sample.removeprefix("yuanrong_").removesuffix("_total")
        if sample.startswith("yuanrong_") and name in found:
            found[name] += value
    return found


def breaker_is_open(text: str) -> bool:
    """Return whether a connector counts its DataSystem worker as out of reach."""
    return any(name == "yuanrong_breaker_open" and value > 0 for name, value in samples(text))


def total(readings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum over several instances."""
    found = dict.fromkeys(NAMES, 0.0)
    for reading in readings:
        for name in NAMES:
            found[name] += reading[name]
    return found


def growth(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, int]:
    """Return by how much each counter grew."""
    return {name: round(after[name] - before[name]) for name in NAMES}
