"""Removes all of a deployment from its hosts."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from yrpd.deploying.hosts import containers
from yrpd.deploying.spec import DEPLOYMENT, START_ORDER, WAVES
from yrpd.docker.sdk import DockerClient
from yrpd.reporting import Reporter


def remove_all(
    clients: Mapping[str, DockerClient], deployment: str, grace_s: int, reporter: Reporter
) -> dict[str, list[dict[str, Any]]]:
    """Stop and remove every container and volume of a deployment, on every host: what depends on others first.

    Returns:
        What was removed: ``containers`` and ``volumes``.
    """
    found = [pair for host, client in clients.items() for pair in containers.listed(client, host, deployment)]
    if found:
        with reporter.step(f"removing {', '.join(f'{each.name} on {each.host}' for each, _ in found)}"):
            for position in range(len(WAVES), -1, -1):
                here = [each for seen, each in found if START_ORDER.get(seen.role, len(WAVES)) == position]
                with ThreadPoolExecutor(max_workers=max(1, len(here))) as pool:
                    list(pool.map(lambda container: containers.end(container, grace_s), here))
    volumes = []
    for host, client in clients.items():
        for volume in client.volumes.list(filters={"label": f"{DEPLOYMENT}={deployment}"}):
            volume.remove(force=True)
            volumes.append({"host": host, "name": str(volume.name)})
    return {"containers": [{"host": seen.host, "name": seen.name} for seen, _ in found], "volumes": volumes}
