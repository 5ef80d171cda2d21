"""All that preflight looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yrpd.deploying.image_source import ImageSource
from yrpd.deploying.inventory import Host, Inventory
from yrpd.deploying.reconcile import Change
from yrpd.deploying.spec import DEPLOYMENT, PORTS, ContainerSpec
from yrpd.docker.sdk import DockerClient
from yrpd.documents.image_record import ImageRecord


@dataclass(frozen=True)
class Situation:
    """What is wanted, what would be done, and whom to ask.

    Attributes:
        inventory: What is wanted.
        image: The image that every container runs.
        folder: The model's folder on the hosts.
        changes: What would be done to each container.
        clients: The hosts' engines.
        source: Where hosts that lack the image get it from.
    """

    inventory: Inventory
    image: ImageRecord
    folder: str
    changes: Sequence[Change]
    clients: Mapping[str, DockerClient]
    source: ImageSource


def starting(situation: Situation) -> list[tuple[Host, list[ContainerSpec]]]:
    """Return the hosts where containers would be started, with those."""
    wanted: dict[str, list[ContainerSpec]] = {}
    for change in situation.changes:
        if change.spec and change.action in ("create", "replace"):
            wanted.setdefault(change.host, []).append(change.spec)
    return [(host, wanted[host.name]) for host in situation.inventory.hosts if host.name in wanted]


def held_ports(situation: Situation, host: Host) -> set[int]:
    """Return ports that containers of this deployment hold now; replacing them frees these."""
    held: set[int] = set()
    for container in situation.clients[host.name].containers.list(
        filters={"label": f"{DEPLOYMENT}={situation.inventory.name}"}, ignore_removed=True
    ):
        held |= {int(port) for port in container.labels.get(PORTS, "").split(",") if port}
    return held
