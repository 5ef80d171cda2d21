"""What runs on the hosts against what this checkout would run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from docker import DockerClient
from docker.models.containers import Container
from rich.table import Table

from yrpd.deploying import containers
from yrpd.deploying.probing import NotReadyError, check_once
from yrpd.deploying.reconcile import Observed, differences
from yrpd.deploying.spec import ContainerSpec

SHOWN_ID = 19  # "sha256:" and twelve digits


def status_document(
    deployment: str, specs: Sequence[ContainerSpec], clients: Mapping[str, DockerClient], now: datetime
) -> dict[str, Any]:
    """Return one entry per container that is wanted or there.

    Args:
        deployment: The deployment's name.
        specs: What this checkout would run.
        clients: The hosts' engines.
        now: The time, for uptimes.
    """
    there = {
        observed.key: (observed, container)
        for host, client in clients.items()
        for observed, container in containers.listed(client, host, deployment)
    }
    entries = []
    for spec in specs:
        observed, container = there.pop(spec.key, (None, None))
        reasons = differences(spec, observed)
        entries.append(
            {
                "host": spec.host,
                "role": spec.role,
                "name": spec.name,
                "health": _health(spec, observed, container),
                "release_matches": not reasons,
                "reasons": list(reasons),
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
    return {"deployment": deployment, "healthy": healthy, "containers": entries}


def status_table(document: Mapping[str, Any]) -> Table:
    """Return the document for people."""
    table = Table("host", "role", "health", "up", "image", "this release", title=str(document["deployment"]))
    for entry in document["containers"]:
        seconds = entry["uptime_s"]
        table.add_row(
            entry["host"],
            entry["role"],
            entry["health"],
            f"{seconds} s" if seconds is not None else "-",
            entry["image_id"][:SHOWN_ID] or "-",
            "yes" if entry["release_matches"] else "no: " + ", ".join(entry["reasons"]),
        )
    return table


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
