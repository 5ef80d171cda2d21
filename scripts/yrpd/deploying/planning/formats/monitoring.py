"""What Prometheus scrapes: a ``file_sd`` file. docs/monitoring/dashboard.json shows it in Grafana."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from yrpd.deploying.spec import ContainerSpec, HttpProbe, Role

METRICS_PORT: dict[Role, int] = {"etcd": 0, "prefill": 0, "decode": 0, "endpoint": 1}


def targets(specs: Sequence[ContainerSpec]) -> list[dict[str, Any]]:
    """Return the entries of a ``file_sd`` file: one for each container that has metrics (the DataSystem has none).

    Args:
        specs: Every container.
    """
    return [
        {
            "targets": [f"{_address(spec)}:{_port(spec)}"],
            "labels": {"deployment": spec.deployment, "role": spec.role, "host": spec.host, "name": spec.name},
        }
        for spec in specs
        if spec.role in METRICS_PORT
    ]


def files(deployment: str, specs: Sequence[ContainerSpec]) -> dict[str, str]:
    """Return the file."""
    return {f"{deployment}-prometheus-targets.json": json.dumps(targets(specs), indent=2) + "\n"}


def _port(spec: ContainerSpec) -> int:
    # etcd's last port answers without a certificate; without TLS its client port does.
    if spec.role == "etcd":
        return spec.ports[2] if len(spec.ports) == 3 else spec.ports[0]
    return spec.ports[METRICS_PORT[spec.role]]


def _address(spec: ContainerSpec) -> str:
    if isinstance(spec.probe, HttpProbe):
        return spec.probe.url.partition("://")[2].partition(":")[0]
    return spec.probe.address
