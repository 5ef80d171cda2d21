"""A Docker Compose file per host, after the Compose specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from yrpd.deploying.spec import ContainerSpec


def text(specs: Sequence[ContainerSpec], elsewhere: Sequence[str] = ()) -> str:
    """Return the Compose file of one host.

    Args:
        specs: The containers of that host, in start order.
        elsewhere: Containers of other hosts that must be up before.
    """
    first = specs[0]
    heading = f"# {first.deployment} on {first.host}: docker -H {first.engine} compose -f THIS_FILE up --detach\n"
    if elsewhere:
        heading += f"# Start these first, on their hosts: {', '.join(elsewhere)}\n"
    return heading + yaml.safe_dump(document(specs), sort_keys=False, width=10_000)


def document(specs: Sequence[ContainerSpec]) -> dict[str, Any]:
    """Return the Compose file of one host as values."""
    names = {spec.name for spec in specs}
    return {
        "name": specs[0].deployment,
        "services": {spec.name: _service(spec, names) for spec in specs},
        "volumes": {volume.name: {"name": volume.name} for spec in specs for volume in spec.volumes},
    }


def _service(spec: ContainerSpec, here: set[str]) -> dict[str, Any]:
    service: dict[str, Any] = {
        "container_name": spec.name,
        "image": spec.image,
        # Compose reads a single dollar sign as the beginning of a variable.
        "command": [_literal(part) for part in spec.argv],
        "network_mode": "host",
        "init": True,
        **_restart(spec),
        "stop_grace_period": f"{spec.stop_seconds}s",
        "shm_size": f"{spec.shm_mb}m",
        "environment": {name: _literal(value) for name, value in spec.env},
        "volumes": [
            *(
                {
                    "type": "bind",
                    "source": _literal(mount.source),
                    "target": _literal(mount.target),
                    "read_only": mount.read_only,
                    # A missing source is an error, not an empty folder.
                    "bind": {"create_host_path": False},
                }
                for mount in spec.mounts
            ),
            *({"type": "volume", "source": volume.name, "target": volume.target} for volume in spec.volumes),
        ],
        "tmpfs": [f"{target}:{options}" for target, options in spec.tmpfs],
        "devices": [f"{device}:{device}:rw" for device in spec.devices],
        "cap_add": list(spec.capabilities),
        "depends_on": [name for name in spec.started_after if name in here],
        "logging": {"driver": "json-file", "options": {"max-size": "50m", "max-file": "3"}},
        "labels": {name: _literal(value) for name, value in spec.labels.items()},
    }
    if spec.user:
        service["user"] = spec.user
    if spec.privileged:
        service["privileged"] = True
    else:
        service |= {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
    return {name: value for name, value in service.items() if value not in ([], {})}


def _restart(spec: ContainerSpec) -> dict[str, Any]:
    if not spec.restart_attempts:
        return {"restart": spec.restart}
    policy = {"condition": "on-failure", "max_attempts": spec.restart_attempts}
    return {"deploy": {"restart_policy": policy}}


def _literal(value: str) -> str:
    return value.replace("$", "$$")
