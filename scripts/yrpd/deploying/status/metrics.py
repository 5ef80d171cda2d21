"""Figures of a running deployment for ``deploy.status``: caches of P and D, nodes of the DataSystem's cluster."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import requests
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from yrpd.deploying.hosts.direct import DirectSession
from yrpd.deploying.inventory import Inventory
from yrpd.deploying.status.counters import samples

TIMEOUT_S = 3.0
# vLLM 0.10.0 has both names of some; the later one is the one that stays.
USAGE = ("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc")
QUERIES = ("vllm:gpu_prefix_cache_queries_total", "vllm:prefix_cache_queries_total")
TIERS = ("memory", "disk", "remote")
HITS = ("vllm:gpu_prefix_cache_hits_total", "vllm:prefix_cache_hits_total")


def cache_figures(text: str) -> dict[str, float | None]:
    """Return usage and hit rates, 0 to 1, out of a vLLM's metrics; ``None`` where nothing was asked for yet.

    Returns:
        ``cache_usage`` of the device's KV cache, ``hit_rate`` of its prefix cache, ``external_hit_rate`` of the
        DataSystem: tokens found there by tokens asked for.
    """
    found: dict[str, list[float]] = {}
    for name, value in samples(text):
        found.setdefault(name, []).append(value)
    sums = {name: sum(values) for name, values in found.items()}
    # Counters add up over the engines of a data-parallel group; each gauge is a part of its own engine's cache, all of
    # one size, so that their mean is the part of all.
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return {
        "cache_usage": _last(means, USAGE),
        "hit_rate": _ratio(_last(sums, HITS), _last(sums, QUERIES)),
        "external_hit_rate": _ratio(
            sums.get("yuanrong_matched_tokens_total"), sums.get("yuanrong_queried_tokens_total")
        ),
    }


def tier_figures(text: str) -> dict[str, dict[str, float]]:
    """Return what a P's or D's metrics say of the DataSystem worker beside it, by tier.

    Returns:
        ``reads``: blocks found there by all engines of the host since this one's start; ``share`` of all that were
        found, 0 to 1; ``bytes``: held there now (memory and disk). Empty before the worker's first figures.
    """
    families = {family.name: family for family in text_string_to_metric_families(text)}
    reads, held = (
        {
            tier: sum(each.value for each in family.samples if each.labels.get("tier") == tier)
            for tier in TIERS
            if any(each.labels.get("tier") == tier for each in family.samples)
        }
        for family in (
            families.get(name, Metric("none", "", "gauge")) for name in ("yuanrong_tier_reads", "yuanrong_tier_bytes")
        )
    )
    found = sum(reads.values())
    return {
        tier: {
            "reads": reads[tier],
            **({"share": reads[tier] / found} if found else {}),
            **({"bytes": held[tier]} if tier in held else {}),
        }
        for tier in reads
    }


def read_cache_figures(address: str, port: int) -> dict[str, Any]:
    """Ask a P or D for its figures; ``None`` for all that it does not tell, and ``tiers`` of the worker beside it."""
    try:
        with DirectSession() as session:
            answer = session.get(f"http://{address}:{port}/metrics", timeout=TIMEOUT_S)
            answer.raise_for_status()
            return {**cache_figures(answer.text), "tiers": tier_figures(answer.text)}
    except (requests.RequestException, ValueError):
        return {**cache_figures(""), "tiers": {}}


def cluster_nodes(inventory: Inventory) -> list[str] | None:
    """Return the addresses of the workers that etcd knows; ``None`` when it does not tell."""
    if inventory.etcd.tls:
        return None
    host = inventory.host(inventory.etcd.host)
    everything = base64.b64encode(b"\0").decode()
    try:
        with DirectSession() as session:
            answer = session.post(
                f"http://{host.address}:{inventory.etcd.port}/v3/kv/range",
                json={"key": everything, "range_end": everything, "keys_only": True},
                timeout=TIMEOUT_S,
            )
            answer.raise_for_status()
            return registered(inventory, answer.json())
    except (requests.RequestException, ValueError):
        return None


def registered(inventory: Inventory, answer: Mapping[str, Any]) -> list[str]:
    """Return the workers' addresses that appear in etcd's keys.

    Args:
        inventory: Which workers there should be.
        answer: What etcd's JSON gateway says to a range without values.
    """
    keys = [base64.b64decode(each["key"]).decode("utf-8", "replace") for each in answer.get("kvs", [])]
    workers = [f"{host.address}:{inventory.datasystem.port}" for host in inventory.serving_hosts()]
    # A key ends with "/<address>", or is the address: 110.0.0.1 is not 10.0.0.1.
    return [worker for worker in workers if any(key.rpartition("/")[2] == worker for key in keys)]


def _last(sums: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    return next((sums[name] for name in reversed(names) if name in sums), None)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
