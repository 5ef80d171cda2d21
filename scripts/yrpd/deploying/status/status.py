"""What runs on the hosts against what this checkout would run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.table import Table

from yrpd.deploying.hosts import containers
from yrpd.deploying.hosts.probing import NotReadyError, check_once
from yrpd.deploying.planning.deployment import Deployment
from yrpd.deploying.reconcile import Observed, differences, in_place, not_compared
from yrpd.deploying.spec import ContainerSpec
from yrpd.deploying.status.metrics import cluster_nodes, read_cache_figures
from yrpd.docker.sdk import Container, DockerClient


def status_document(
    deployment: Deployment, clients: Mapping[str, DockerClient], silent: Mapping[str, str], now: datetime
) -> dict[str, Any]:
    """Return one entry per container that is wanted or there.

    Args:
        deployment: What this checkout would run.
        clients: The engines of the hosts that answer.
        silent: The other hosts, with the reason.
        now: The time, for uptimes.
    """
    name = deployment.inventory.name
    there = {
        observed.key: (observed, container)
        for host, client in clients.items()
        for observed, container in containers.listed(client, host, name)
    }
    entries = []
    different = differences(deployment.specs, [observed for observed, _ in there.values()])
    for spec in deployment.specs:
        observed, container = there.pop(spec.key, (None, None))
        reasons = [*different[spec.key], *(in_place(spec, observed) if observed else ())]
        entries.append(
            {
                "host": spec.host,
                "role": spec.role,
                "name": spec.name,
                "health": "unknown" if spec.host in silent else _health(spec, observed, container),
                "release_matches": not reasons,
                "reasons": [silent[spec.host]] if spec.host in silent else reasons,
                "not_compared": not_compared(spec, observed),
                **_cache(deployment, spec, observed),
                **_facts(observed, now),
            }
        )
    for observed, _ in there.values():
        entries.append(
            {
                "host": observed.host,
                "role": observed.role,
                "name": observed.name,
                "health": observed.status,
                "release_matches": False,
                "reasons": ["the inventory does not have it"],
                **_facts(observed, now),
            }
        )
    healthy = all(entry["health"] == "healthy" and entry["release_matches"] for entry in entries)
    return {
        "deployment": name,
        "healthy": healthy,
        "containers": entries,
        "silent": dict(silent),
        "cluster_nodes": cluster_nodes(deployment.inventory),
        "cluster_size": len(deployment.inventory.serving_hosts()),
        "endpoint": deployment.endpoint,
    }


def status_tables(document: Mapping[str, Any]) -> list[Table]:
    """Return the document for people: the containers, then what the caches of P and D did where they tell it."""
    nodes = document["cluster_nodes"]
    known = f"{len(nodes)} of {document['cluster_size']}" if nodes is not None else "unknown"
    title = f"{document['deployment']} at {document['endpoint']}, DataSystem nodes: {known}"
    standing = Table("container", "host", "health", "up", "this release", title=title)
    caching = Table("container", "cache used", "prefix hits", "from DataSystem", "of these by tier", title="KV caches")
    for entry in document["containers"]:
        matches = "yes" if entry["release_matches"] else "no: " + ", ".join(entry["reasons"])
        if note := entry.get("not_compared"):
            matches += f"; {note}"
        up = "-" if entry["uptime_s"] is None else str(timedelta(seconds=entry["uptime_s"]))
        standing.add_row(entry["name"], entry["host"], entry["health"], up, matches)
        shares = [entry.get(name) for name in ("cache_usage", "hit_rate", "external_hit_rate")]
        tiers = entry.get("tiers") or {}
        if tiers or any(share is not None for share in shares):
            caching.add_row(entry["name"], *map(_percent, shares), tiers_text(tiers))
    return [standing, caching] if caching.row_count else [standing]


def tiers_text(tiers: Mapping[str, Mapping[str, float]]) -> str:
    """Return what a worker's tiers served and hold, for people."""
    return (
        ", ".join(
            f"{tier} {_percent(figures.get('share'))}"
            + (f" ({figures['bytes'] / 1e6:.0f} MB)" if "bytes" in figures else "")
            for tier, figures in tiers.items()
        )
        or "-"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _cache(deployment: Deployment, spec: ContainerSpec, observed: Observed | None) -> dict[str, Any]:
    if spec.role not in ("prefill", "decode") or observed is None or observed.status != "running":
        return {}
    return read_cache_figures(deployment.inventory.host(spec.host).address, spec.ports[0])


def _health(spec: ContainerSpec, observed: Observed | None, container: Container | None) -> str:
    if observed is None or container is None:
        return "absent"
    if observed.status != "running":
        return observed.status
    try:
        check_once(spec.probe, container)
    except NotReadyError:
        return "unhealthy"
    return "healthy"


def _facts(observed: Observed | None, now: datetime) -> dict[str, Any]:
    if observed is None:
        return {"state": "absent", "image_id": "", "uptime_s": None}
    uptime = None
    if observed.status == "running" and observed.started_at:
        # Docker writes nanoseconds, datetime reads microseconds.
        started = datetime.fromisoformat(observed.started_at[:19]).replace(tzinfo=UTC)
        uptime = max(0, int((now - started).total_seconds()))
    return {"state": observed.status, "image_id": observed.image_id, "uptime_s": uptime}
