"""The commands of ``invoke deploy*``: each returns its JSON document, or raises a reported error."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docker import DockerClient
from rich.console import Console
from rich.table import Table

from yrpd.building import engine as building_engine
from yrpd.deploying import containers, model_folder, plans, preflight, transfer
from yrpd.deploying.engines import connect_all, lab_is_gone
from yrpd.deploying.findings import demand_nothing_in_the_way
from yrpd.deploying.image_record import ImageRecord, load_image_record
from yrpd.deploying.inside import inspect_inside
from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.planner import Site
from yrpd.deploying.planner import plan as make_plan
from yrpd.deploying.reconcile import Change, decide
from yrpd.deploying.rollout import Rollout, log_folder, remove_all
from yrpd.deploying.situation import Situation, starting
from yrpd.deploying.spec import ContainerSpec
from yrpd.deploying.status import status_document, status_table
from yrpd.errors import EnvironmentFailure
from yrpd.project import Project
from yrpd.release import Flavour
from yrpd.reporting import Reporter


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
        router = self.inventory.router
        return f"http://{self.inventory.host(router.host).address}:{router.port}"

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
    """Read everything that a plan is made of, without asking any host.

    Raises:
        ConfigurationError: The inventory is wrong.
        ImageError: There is no image yet.
    """
    path = hosts_file if hosts_file.is_absolute() or hosts_file.exists() else project.root / hosts_file
    inventory = load_inventory(path)
    image = load_image_record(project, flavour, pin)
    folder = (project.root / inventory.model.path).resolve() if not inventory.model.path.startswith("/") else None
    model = str(folder) if folder else inventory.model.path.rstrip("/") or "/"
    local = all(model_folder.is_local(host) for host in inventory.serving_hosts())
    site = Site(
        model_folder=model,
        cores=len(os.sched_getaffinity(0)),
        model_digest=model_folder.local_digest(Path(model)) if local else "",
    )
    return Deployment(project, hosts_file, inventory, image, site, make_plan(inventory, image, site), pin)


def deploy(
    project: Project, reporter: Reporter, hosts_file: Path, flavour: Flavour, pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Bring the hosts to the planned state; containers that already are stay untouched.

    Raises:
        EnvironmentFailure: Something stands in the way; nothing was changed.
        ImageError: The image could not be brought to a host.
        DeployError: A container did not become ready; what this run started is removed again.
    """
    deployment = read_deployment(project, hosts_file, flavour, pin)
    with connect_all(deployment.inventory) as clients:
        changes = decide(deployment.specs, _observed(deployment, clients))
        with _builder() as builder:
            situation = Situation(
                deployment.inventory, deployment.image, deployment.site.model_folder, changes, clients, builder
            )
            with reporter.step(f"looking at {', '.join(host.name for host in deployment.inventory.hosts)}"):
                findings = preflight.inspect(situation)
                if not dry_run:
                    demand_nothing_in_the_way(findings)
            if dry_run:
                reporter.render(_changes_table(changes))
                for finding in findings:
                    reporter.say(f"    in the way on {finding.host}: {finding.problem}; {finding.fix}")
                return {
                    **deployment.document(changes),
                    "state": "planned",
                    "findings": [finding.document() for finding in findings],
                }
            moved = _bring_image(deployment, situation, reporter)
            if moved:
                with reporter.step(f"looking again, from inside {', '.join(moved)}"):
                    again = inspect_inside(situation, [host for host, _ in starting(situation)])
                    demand_nothing_in_the_way(again)
                findings = [*findings, *again]
        for finding in findings:
            reporter.say(f"    [{finding.id}] {finding.host}: {finding.problem}; {finding.fix}")
        rollout = Rollout(clients, deployment.inventory.name, log_folder(project.build), reporter)
        rollout.run(changes)
    changed = any(change.action != "keep" for change in changes)
    reporter.say(
        f"the endpoint is {deployment.endpoint}"
        + ("" if changed else "; nothing had to change: every container already runs this release")
    )
    return {
        "deployment": deployment.inventory.name,
        "endpoint": deployment.endpoint,
        "state": "deployed" if changed else "unchanged",
        "reasons": [f"{each.name} on {each.host}: {each.reason}" for each in changes],
        "changes": [change.document() for change in changes],
        "image_moved_to": moved,
        "warnings": [finding.document() for finding in findings],
        "seconds": rollout.seconds,
    }


def plan(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour,
    pin: str = "",
    plan_format: str = "table",
    output: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Print what deploy would start: as a table, docker lines, JSON, Compose files or Kubernetes manifests.

    Asks no host. Changes nothing but the files in ``output``, when that is given.

    Raises:
        ConfigurationError: The inventory is wrong, or there is no such format.
    """
    plans.check_format(plan_format)
    deployment = read_deployment(project, hosts_file, flavour, pin)
    document = deployment.document()
    if plan_format == "table":
        found = {f"{deployment.inventory.name}-plan.txt": _plan_text(deployment)}
    elif plan_format == "json":
        found = {f"{deployment.inventory.name}-plan.json": json.dumps(document, indent=2, sort_keys=True) + "\n"}
    else:
        found = plans.files(plan_format, deployment.inventory.name, deployment.specs)
    if output and not dry_run:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in found.items():
            (folder / name).write_text(text, encoding="utf-8")
            reporter.say(f"wrote {folder / name}")
    elif not (reporter.as_json and plan_format == "json"):
        for text in found.values():
            reporter.say(text.rstrip("\n") + ("\n---" if len(found) > 1 else ""))
    return {**document, "format": plan_format, "files": found}


def _plan_text(deployment: Deployment) -> str:
    table = Table("host", "role", "container", "ports", title=f"{deployment.inventory.name} at {deployment.endpoint}")
    for spec in deployment.specs:
        table.add_row(spec.host, spec.role, spec.name, ", ".join(map(str, spec.ports)))
    console = Console(width=120, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def status(project: Project, reporter: Reporter, hosts_file: Path, flavour: Flavour, pin: str = "") -> dict[str, Any]:
    """Say for each container: role, health, and whether it runs what this checkout would run."""
    deployment = read_deployment(project, hosts_file, flavour, pin)
    with connect_all(deployment.inventory) as clients:
        document = status_document(deployment.inventory.name, deployment.specs, clients, datetime.now(tz=UTC))
    reporter.render(status_table(document))
    return {**document, "endpoint": deployment.endpoint}


def logs(
    project: Project, reporter: Reporter, hosts_file: Path, flavour: Flavour, pin: str = "", tail: int = 100
) -> dict[str, Any]:
    """Print the last log lines of every container of the deployment."""
    inventory = read_deployment(project, hosts_file, flavour, pin).inventory
    entries = []
    with connect_all(inventory) as clients:
        for host, client in clients.items():
            for observed, container in containers.listed(client, host, inventory.name):
                text = containers.log_text(container, tail)
                reporter.say(f"==> {observed.name} on {host} ({observed.status})\n{text}")
                entries.append({"host": host, "name": observed.name, "role": observed.role, "log": text})
    if not entries:
        reporter.say(f"no container of {inventory.name} is on its hosts; invoke deploy starts them")
    return {"deployment": inventory.name, "containers": entries}


def verify(
    project: Project, reporter: Reporter, hosts_file: Path, flavour: Flavour, pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Prove the endpoint's answers equal to plain vLLM's, and that P's blocks were loaded by D."""
    from yrpd.deploying.verification.run import verify_deployment

    return verify_deployment(read_deployment(project, hosts_file, flavour, pin), reporter, dry_run=dry_run)


def clean(
    project: Project, reporter: Reporter, hosts_file: Path, flavour: Flavour, pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Stop and remove every container and volume of the deployment, on all hosts; images stay."""
    path = hosts_file if hosts_file.is_absolute() or hosts_file.exists() else project.root / hosts_file
    inventory = load_inventory(path)
    if lab_is_gone(inventory):
        # Containers end with their engines, so `deploy.clean lab.down` also works after the lab was lost.
        reporter.say(f"nothing of {inventory.name} is left: the lab's hosts are gone")
        return {"deployment": inventory.name, "state": "unchanged", "containers": [], "volumes": []}
    with connect_all(inventory) as clients:
        if dry_run:
            there = [
                {"host": host, "name": observed.name}
                for host, client in clients.items()
                for observed, _ in containers.listed(client, host, inventory.name)
            ]
            for each in there:
                reporter.say(f"would remove {each['name']} on {each['host']}")
            return {"deployment": inventory.name, "state": "planned", "containers": there, "volumes": []}
        removed = remove_all(clients, inventory.name, inventory.containers.stop_seconds, reporter)
    state = "removed" if removed["containers"] or removed["volumes"] else "unchanged"
    if state == "unchanged":
        reporter.say(f"nothing of {inventory.name} is on its hosts")
    return {"deployment": inventory.name, "state": state, **removed}


def _observed(deployment: Deployment, clients: Any) -> list[Any]:
    return [
        observed
        for host, client in clients.items()
        for observed, _ in containers.listed(client, host, deployment.inventory.name)
    ]


@contextmanager
def _builder() -> Iterator[DockerClient | None]:
    """Connect to the engine that builds images; hosts that have the image do not need it."""
    try:
        client = building_engine.connect()
    except EnvironmentFailure:
        yield None
        return
    try:
        yield client
    finally:
        client.close()


def _bring_image(deployment: Deployment, situation: Situation, reporter: Reporter) -> list[str]:
    without = preflight.lacking_image(situation)
    if without:
        assert situation.builder is not None, "preflight has found the image on the build engine"  # noqa: S101
        transfer.move(situation.builder, without, deployment.image, reporter)
    return [host.name for host in without]


def _changes_table(changes: Sequence[Change]) -> Table:
    table = Table("host", "container", "action", "because")
    for change in changes:
        table.add_row(change.host, change.name, change.action, change.reason)
    return table
