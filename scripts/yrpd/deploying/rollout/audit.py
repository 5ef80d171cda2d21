"""Puts what was done to a deployment on the record of every host, and a copy of it beside the checkout's results."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from yrpd.deploying.hosts import records
from yrpd.deploying.hosts.records import Holder
from yrpd.deploying.reconcile import Change
from yrpd.deploying.spec import START_ORDER, ContainerSpec
from yrpd.docker.sdk import DockerClient
from yrpd.errors import DeployError, YrpdError
from yrpd.project import Project

SHOWN = 12


def release_id(specs: Sequence[ContainerSpec]) -> str:
    """Return the identity of a release: what runs where."""
    told = sorted((spec.host, spec.name, spec.digest) for spec in specs)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:SHOWN]


@contextmanager
def audited(
    project: Project,
    clients: Mapping[str, DockerClient],
    deployment: str,
    command: str,
    changes: Sequence[Change],
    specs: Sequence[ContainerSpec],
) -> Iterator[None]:
    """Record what the block does on every host: who, when, what, and how it ended. Nothing is recorded of a no-op.

    Specs hold paths of secrets and no contents, so neither does the record.
    """
    began, outcome = time.monotonic(), "done"
    holder = Holder.here(command)
    try:
        yield
    except BaseException as error:
        outcome = error.message if isinstance(error, YrpdError) else type(error).__name__
        raise
    finally:
        for host, client in clients.items():
            own = [change for change in changes if change.host == host]
            if (
                not any(change.action != "keep" for change in changes)
                and records.recall(client, deployment)["releases"]
            ):
                continue
            entry = {
                "time": datetime.now(tz=UTC).isoformat(timespec="seconds"),
                "command": command,
                "by": f"{holder.user}@{holder.machine}",
                "release": release_id(specs),
                "changes": [change.document() for change in own if change.action != "keep"],
                "outcome": outcome,
                "seconds": round(time.monotonic() - began, 1),
            }
            here = [spec.document() for spec in specs if spec.host == host] if outcome == "done" else []
            records.remember(client, deployment, entry, here)
            keep_copy(project, deployment, host, client)


def keep_copy(project: Project, deployment: str, host: str, client: DockerClient) -> None:
    """Keep a copy of a host's record in ``build/audit/``; it outlives the deployment."""
    known = records.recall(client, deployment)["entries"]
    path = project.build / "audit" / deployment / f"{host}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    new = [line for line in (json.dumps(entry, sort_keys=True) for entry in known) if line not in set(lines)]
    path.write_text("".join(f"{line}\n" for line in [*lines, *new]), encoding="utf-8")


def previous_release(clients: Mapping[str, DockerClient], deployment: str) -> tuple[str, tuple[ContainerSpec, ...]]:
    """Return the release that stood before the present one, put together from all hosts' records.

    Raises:
        DeployError: No host remembers one, or what a host remembers cannot be read.
    """
    remembered = {host: records.recall(client, deployment)["releases"] for host, client in clients.items()}
    longest: list[dict[str, Any]] = max(remembered.values(), key=len, default=[])
    if len(longest) < 2:
        raise DeployError(
            f"There is no release of {deployment} before the present one.", next_command="invoke deploy.status"
        )
    wanted = str(longest[-2]["id"])
    try:
        found = [
            ContainerSpec.from_document(document)
            for releases in remembered.values()
            for release in releases
            if release["id"] == wanted
            for document in release["specs"]
        ]
    except (KeyError, TypeError) as error:
        raise DeployError(f"The record of release {wanted} cannot be read ({error}).") from error
    return wanted, tuple(sorted(found, key=lambda spec: START_ORDER[spec.role]))
