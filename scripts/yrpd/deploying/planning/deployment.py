"""What all deployment commands start from: inventory, image, site and the plan that follows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.planning.planner import Site
from yrpd.deploying.planning.planner import plan as make_plan
from yrpd.deploying.reconcile import Change
from yrpd.deploying.spec import ContainerSpec
from yrpd.documents.image_record import ImageRecord, load_image_record
from yrpd.project import Project
from yrpd.release import Flavour


@dataclass(frozen=True)
class Deployment:
    """What all commands start from.

    Attributes:
        project: The checkout.
        hosts_file: The inventory's file.
        inventory: The inventory.
        image: What every container runs.
        site: What is particular to this machine.
        specs: Every container, in start order.
        pin: The pin as it was asked for; empty for the default one.
    """

    project: Project
    hosts_file: Path
    inventory: Inventory
    image: ImageRecord
    site: Site
    specs: tuple[ContainerSpec, ...]
    pin: str = ""

    @property
    def endpoint(self) -> str:
        """Where clients send requests."""
        endpoint, host = self.inventory.endpoint, self.inventory.host(self.inventory.router.host)
        return f"{endpoint.scheme}://{host.address}:{endpoint.port}"

    def command(self, name: str) -> str:
        """Return a command line of this deployment for "what to type next"."""
        pin = f" --pin {self.pin}" if self.pin else ""
        return f"invoke {name} --flavour {self.image.flavour} --hosts {self.hosts_file}{pin}"

    def document(self, changes: Sequence[Change] | None = None) -> dict[str, Any]:
        """Return the plan as JSON values."""
        document: dict[str, Any] = {
            "deployment": self.inventory.name,
            "endpoint": self.endpoint,
            "image": {"reference": self.image.reference, "id": self.image.id},
            "containers": [spec.document() for spec in self.specs],
        }
        if changes is not None:
            document["changes"] = [change.document() for change in changes]
        return document


def read_deployment(project: Project, hosts_file: Path, flavour: Flavour, pin: str = "") -> Deployment:
    """Read everything that a plan is made of, without asking any host; a release folder has its own flavour and pin.

    Raises:
        ConfigurationError: The inventory is wrong.
        ImageError: There is no image yet.
    """
    inventory = load_inventory(hosts_file)
    image = load_image_record(project, flavour, pin)
    folder = (project.root / inventory.model.path).resolve() if not inventory.model.path.startswith("/") else None
    model = str(folder) if folder else inventory.model.path.rstrip("/") or "/"
    site = Site(model_folder=model, cores=len(os.sched_getaffinity(0)))
    return Deployment(project, hosts_file, inventory, image, site, make_plan(inventory, image, site), pin)
