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
from yrpd.deploying.hosts.engines import LOST, reason
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
    states: Mapping[tuple[str, str], str],
) -> Iterator[None]:
    """Record what the block does on every host: who, when, what, and how it ended. Nothing is recorded of a no-op.

    Specs hold paths of secrets and no contents, so neither does the record.

    Args:
        project: Has the folder of the copies.
        clients: The hosts' engines.
        deployment: The deployment's name.
        command: What is done.
        changes: What was decided.
        specs: What then runs.
        states: What became of each change, once the block has ended.

    Raises:
        DeployError: The block ended well, and a host could not be told.
    """
    began, outcome = time.monotonic(), "done"
    changed = any(change.action != "keep" for change in changes)
    holder = Holder.here(command)
    try:
        yield
    except BaseException as error:
        outcome = error.message if isinstance(error, YrpdError) else type(error).__name__
        raise
    finally:
        entry = {
            "time": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            "command": command,
            "by": holder.owner,
            "release": release_id(specs),
            "outcome": outcome,
            "seconds": round(time.monotonic() - began, 1),
            # What is new stays where the rest could be brought back without it.
            "mixed": outcome != "done" and "done" in states.values(),
        }
        untold = []
        for host, client in clients.items():
            here = [change for change in changes if change.host == host and change.action != "keep"]
            told = [{**change.document(), "state": states.get(change.key, "waiting")} for change in here]
            stand = [spec.document() for spec in specs if spec.host == host] if outcome == "done" else []
            try:
                if changed or not records.recall(client, deployment)["releases"]:
                    records.remember(client, deployment, {**entry, "changes": told}, stand)
                    keep_copy(project, deployment, host, client)
            except LOST as error:
                untold.append(f"{host} ({reason(error)})")
        if untold and outcome == "done":
            raise DeployError(
                f"What was done is not on the record of {', '.join(untold)}: a rollback would not know it.",
                next_command="invoke deploy",
            )


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
    remembered = {host: records.recall(client, deployment) for host, client in clients.items()}
    longest: dict[str, Any] = max(
        remembered.values(), key=lambda each: len(each["releases"]), default={"releases": [], "entries": []}
    )
    releases: list[dict[str, Any]] = longest["releases"]
    # After a rollout that failed half way some of the last whole release runs, and some of the new one.
    mixed = any(record["entries"] and record["entries"][-1].get("mixed") for record in remembered.values())
    if len(releases) < (1 if mixed else 2):
        raise DeployError(
            f"There is no release of {deployment} before the present one.", next_command="invoke deploy.status"
        )
    wanted = str(releases[-1 if mixed else -2]["id"])
    try:
        found = [
            ContainerSpec.from_document(document)
            for record in remembered.values()
            for release in record["releases"]
            if release["id"] == wanted
            for document in release["specs"]
        ]
    except (KeyError, TypeError) as error:
        raise DeployError(f"The record of release {wanted} cannot be read ({error}).") from error
    if release_id(found) != wanted:
        raise DeployError(
            f"The hosts remember release {wanted} in part only; going back to it would remove what they forgot.",
            next_command="invoke deploy   (of that release's image and inventory)",
        )
    return wanted, tuple(sorted(found, key=lambda spec: START_ORDER[spec.role]))
