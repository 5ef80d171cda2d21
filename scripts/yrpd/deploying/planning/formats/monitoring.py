"""What Prometheus scrapes (a ``file_sd`` file) and what Grafana shows of it (a dashboard)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from yrpd.deploying.spec import ContainerSpec, HttpProbe, Role

# Title, unit, and the expressions with their legends.
PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Time to first token, 95th percentile",
        "s",
        (
            (
                "histogram_quantile(0.95, sum by (le, role) (rate(vllm:time_to_first_token_seconds_bucket"
                '{deployment="$deployment"}[5m])))',
                "{{role}}",
            ),
        ),
    ),
    (
        "Requests running and waiting",
        "short",
        (
            ('vllm:num_requests_running{deployment="$deployment"}', "running {{name}}"),
            ('vllm:num_requests_waiting{deployment="$deployment"}', "waiting {{name}}"),
        ),
    ),
    (
        "Blocks a second",
        "short",
        (
            ('rate(yuanrong_saved_blocks_total{deployment="$deployment"}[5m])', "saved {{name}}"),
            ('rate(yuanrong_loaded_blocks_total{deployment="$deployment"}[5m])', "loaded {{name}}"),
        ),
    ),
    (
        "Tokens found in the DataSystem",
        "percentunit",
        (
            (
                'rate(yuanrong_matched_tokens_total{deployment="$deployment"}[5m]) / '
                'rate(yuanrong_queried_tokens_total{deployment="$deployment"}[5m])',
                "{{name}}",
            ),
        ),
    ),
    (
        "Failed loads and saves, recomputed requests, a second",
        "short",
        (
            ('rate(yuanrong_load_failures_total{deployment="$deployment"}[5m])', "loads {{name}}"),
            ('rate(yuanrong_save_failures_total{deployment="$deployment"}[5m])', "saves {{name}}"),
            ('rate(yuanrong_recomputed_requests_total{deployment="$deployment"}[5m])', "recomputed {{name}}"),
        ),
    ),
    ("Targets that answer", "bool", (('up{deployment="$deployment"}', "{{name}}"),)),
)
METRICS_PORT: dict[Role, int] = {"etcd": 0, "prefill": 0, "decode": 0, "router": 1, "endpoint": 1}


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


def dashboard(deployment: str) -> dict[str, Any]:
    """Return the Grafana dashboard as values."""
    panels = []
    for number, (title, unit, queries) in enumerate(PANELS):
        panels.append(
            {
                "id": number + 1,
                "type": "timeseries",
                "title": title,
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
                "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
                "targets": [
                    {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
                    for index, (expression, legend) in enumerate(queries)
                ],
            }
        )
    return {
        "title": f"Prefill and decode: {deployment}",
        "uid": f"yrpd-{deployment}"[:40],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {"name": "deployment", "type": "constant", "query": deployment, "hide": 2},
            ]
        },
        "panels": panels,
    }


def files(deployment: str, specs: Sequence[ContainerSpec]) -> dict[str, str]:
    """Return both files."""
    return {
        f"{deployment}-prometheus-targets.json": json.dumps(targets(specs), indent=2) + "\n",
        f"{deployment}-grafana-dashboard.json": json.dumps(dashboard(deployment), indent=2) + "\n",
    }


def _port(spec: ContainerSpec) -> int:
    # etcd's last port answers without a certificate; without TLS its client port does.
    if spec.role == "etcd":
        return spec.ports[2] if len(spec.ports) == 3 else spec.ports[0]
    return spec.ports[METRICS_PORT[spec.role]]


def _address(spec: ContainerSpec) -> str:
    if isinstance(spec.probe, HttpProbe):
        return spec.probe.url.partition("://")[2].partition(":")[0]
    return spec.probe.address
