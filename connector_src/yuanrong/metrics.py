# SPDX-License-Identifier: Apache-2.0
"""Counters on vLLM's ``/metrics``.

The counts arise in the engine's processes, while ``/metrics`` is served by the API server: set
``PROMETHEUS_MULTIPROC_DIR`` to an empty directory before ``vllm serve`` starts, and prometheus_client adds them up.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from .transport.base import MISSING, REVOKED

logger = logging.getLogger("vllm.yuanrong")

_COUNTERS = {
    "loaded_blocks": "KV blocks loaded from the DataSystem",
    "saved_blocks": "KV blocks saved to the DataSystem",
    "loaded_bytes": "Bytes loaded from the DataSystem",
    "saved_bytes": "Bytes saved to the DataSystem",
    "matched_tokens": "Prompt tokens whose KV blocks were claimed from the DataSystem",
    "queried_tokens": "Prompt tokens of the requests that could be looked up in the DataSystem",
    "recomputed_requests": "Requests whose load failed and which were computed instead",
}
_CAUSED = {
    "load_failures": "Loads that failed, by cause",
    "save_failures": "Block saves that failed, by cause",
}
_HISTOGRAMS = {"load_seconds": "Duration of one request's load", "save_seconds": "Duration of one save job"}
#: Of the DataSystem worker and all its clients, not of this engine alone (see :mod:`.tiers`).
_TIERED = {"tier_reads": "Reads of objects at this host's DataSystem worker, by the tier that served them"}
_TIERED_GAUGES = {"tier_bytes": "Bytes held by this host's DataSystem worker, by tier"}
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Objects are evicted, and blocks taken back, in a service that is well.
_EVERYDAY = frozenset({MISSING, REVOKED})

_lock = threading.Lock()
_families: dict[str, Any] | None = None


class Metrics:
    """Sink for the connector's counts; nothing is counted when metrics are off or prometheus_client is missing.

    The first failure of each cause is a warning all the same: a service that only counts them seems to be well.
    """

    def __init__(self, families: dict[str, Any] | None = None) -> None:
        self._families = families or {}
        self._told: set[tuple[str, str]] = set()

    def add(self, name: str, amount: float = 1) -> None:
        """Add to a counter, named without prefix and suffix, for example ``loaded_blocks``."""
        family = self._families.get(name)
        if family is not None and amount > 0:
            family.inc(amount)

    def fail(self, name: str, cause: str, amount: float = 1) -> None:
        """Add to ``load_failures`` or ``save_failures`` under a cause of :mod:`.transport.base`."""
        if cause not in _EVERYDAY and (name, cause) not in self._told:
            self._told.add((name, cause))
            logger.warning("the first of %s with cause %s; further ones are counted only", name, cause)
        family = self._families.get(name)
        if family is not None and amount > 0:
            family.labels(cause=cause).inc(amount)

    def observe(self, name: str, seconds: float) -> None:
        """Record a duration in ``load_seconds`` or ``save_seconds``."""
        family = self._families.get(name)
        if family is not None:
            family.observe(seconds)

    def tier(self, tier: str, reads: float = 0, held_bytes: float | None = None) -> None:
        """Add reads to ``tier_reads``, and set ``tier_bytes``, of a tier of :mod:`.tiers`."""
        family = self._families.get("tier_reads")
        if family is not None:
            family.labels(tier=tier).inc(reads)
        family = self._families.get("tier_bytes")
        if family is not None and held_bytes is not None:
            family.labels(tier=tier).set(held_bytes)

    def breaker(self, is_open: bool) -> None:
        """Record whether the DataSystem is out of reach."""
        family = self._families.get("breaker_open")
        if family is not None:
            family.set(1 if is_open else 0)


def make_metrics(enabled: bool) -> Metrics:
    """Return the process's sink; its families are registered on first use, once."""
    global _families
    if not enabled:
        return Metrics()
    with _lock:
        if _families is None:
            try:
                _families = _register()
            except Exception as error:
                logger.warning("no metrics: %s", error)
                _families = {}
        return Metrics(_families)


def _register() -> dict[str, Any]:
    from prometheus_client import Counter, Gauge, Histogram

    families: dict[str, Any] = {name: Counter(f"yuanrong_{name}", text) for name, text in _COUNTERS.items()}
    families |= {name: Counter(f"yuanrong_{name}", text, ["cause"]) for name, text in _CAUSED.items()}
    families |= {name: Counter(f"yuanrong_{name}", text, ["tier"]) for name, text in _TIERED.items()}
    for name, text in _TIERED_GAUGES.items():
        families[name] = Gauge(f"yuanrong_{name}", text, ["tier"], multiprocess_mode="livemax")
    families |= {name: Histogram(f"yuanrong_{name}", text, buckets=_BUCKETS) for name, text in _HISTOGRAMS.items()}
    families["breaker_open"] = Gauge(
        "yuanrong_breaker_open", "1 while the DataSystem is out of reach", multiprocess_mode="livemax"
    )
    return families
