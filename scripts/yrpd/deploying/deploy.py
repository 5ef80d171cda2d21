"""The commands that change hosts: deploy, rollback, clean. One at a time, and every one is on the hosts' record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from yrpd.deploying.hosts import containers, records
from yrpd.deploying.hosts.engines import LAB_ENGINES, connect_all, connect_answering, lab_is_gone
from yrpd.deploying.hosts.records import UNKNOWN
from yrpd.deploying.hosts.removal import remove_all
from yrpd.deploying.image_source import SourceOf
from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.planning.deployment import read_deployment
from yrpd.deploying.preflight import engine_checks as preflight
from yrpd.deploying.preflight import host_survey
from yrpd.deploying.preflight.findings import demand_nothing_in_the_way
from yrpd.deploying.preflight.fingerprints import fingerprinted
from yrpd.deploying.preflight.host_checks import inspect_inside
from yrpd.deploying.preflight.situation import Situation, starting
from yrpd.deploying.reconcile import Change, Observed, decide
from yrpd.deploying.rollout.audit import audited, keep_copy, previous_release
from yrpd.deploying.rollout.rollout import Rollout, log_folder
from yrpd.deploying.rollout.steps import Unit
from yrpd.deploying.spec import ENGINES
from yrpd.docker.images import find
from yrpd.docker.sdk import DockerClient
from yrpd.errors import DeployError, EnvironmentFailure, ImageError
from yrpd.project import Project
from yrpd.release import Flavour
from yrpd.reporting import Reporter

# What an engine logs whose trial block did not come back (connector_src/yuanrong/trial.py).
NOT_TRAVELLING = "KV blocks do not travel"


def deploy(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    source_of: SourceOf,
    flavour: Flavour = "npu",
    pin: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Bring the hosts to the planned state; containers that already are stay untouched.

    Args:
        project: The checkout, or the release folder.
        reporter: Says what is done.
        hosts_file: The inventory.
        source_of: Gives where hosts that lack the image get it from.
        flavour: ``npu`` or ``cpu``.
        pin: The pin of the image; empty means the default one.
        dry_run: Print what would change.

    Raises:
        EnvironmentFailure: Something stands in the way; nothing was changed.
        ImageError: The image could not be brought to a host.
        DeployError: A container did not become ready, or a host was lost: what ran before runs there again, and what
            was finished and can stay has stayed.
    """
    deployment = read_deployment(project, hosts_file, flavour, pin)
    name = deployment.inventory.name
    with connect_all(deployment.inventory) as clients, _held(clients, name, "deploy", reporter, dry_run=dry_run):
        deployment = replace(deployment, specs=fingerprinted(deployment.specs, clients))
        changes = decide(deployment.specs, observed(name, clients))
        rollout = _rollout(project, deployment.inventory, clients, reporter)
        with source_of(deployment.image) as source:
            situation = Situation(
                deployment.inventory, deployment.image, deployment.site.model_folder, changes, clients, source
            )
            with reporter.step(f"looking at {', '.join(host.name for host in deployment.inventory.hosts)}"):
                findings = preflight.inspect(situation)
                if not dry_run:
                    demand_nothing_in_the_way(findings)
            if dry_run:
                units = rollout.plan(changes)
                _show(reporter, changes, units)
                for finding in findings:
                    reporter.say(f"    in the way on {finding.host}: {finding.problem}; {finding.fix}")
                return {
                    **deployment.document(changes),
                    "state": "planned",
                    "steps": _listed(units),
                    "findings": [finding.document() for finding in findings],
                }
            moved = _bring_image(situation, reporter)
            if moved:  # what P and D would read there can be told only now
                deployment = replace(deployment, specs=fingerprinted(deployment.specs, clients))
                changes = decide(deployment.specs, observed(name, clients))
                situation = replace(situation, changes=changes)
                with reporter.step(f"looking again, from inside {', '.join(moved)}"):
                    again = inspect_inside(situation, [host for host, _ in starting(situation)])
                    demand_nothing_in_the_way(again)
                findings = [*findings, *again]
        for finding in findings:
            reporter.say(f"    [{finding.id}] {finding.host}: {finding.problem}; {finding.fix}")
        with audited(project, clients, name, "deploy", changes, deployment.specs, rollout.states):
            rollout.run(changes)
        untold = stranded(changes, clients)
        for line in untold:
            reporter.say(f"    WARNING {line}")
    changed = any(change.action != "keep" for change in changes)
    reporter.say(
        f"the endpoint is {deployment.endpoint}"
        + ("" if changed else "; nothing had to change: every container already runs this release")
    )
    return {
        "deployment": name,
        "endpoint": deployment.endpoint,
        "state": "deployed" if changed else "unchanged",
        "reasons": [f"{each.name} on {each.host}: {each.reason}" for each in changes],
        "changes": [change.document() for change in changes],
        "image_moved_to": moved,
        "warnings": [finding.document() for finding in findings],
        "kv_warnings": untold,
        "seconds": rollout.seconds,
    }


def stranded(changes: Sequence[Change], clients: Mapping[str, DockerClient]) -> list[str]:
    """Return what P and D that were started now have logged of blocks that do not travel: they answer all the same.

    Args:
        changes: What was carried out.
        clients: The hosts' engines.
    """
    lines = []
    for change in changes:
        if change.action in ("create", "replace") and change.spec and change.spec.role in ENGINES:
            text = containers.log_text(clients[change.host].containers.get(change.name))
            said = [line for line in text.splitlines() if NOT_TRAVELLING in line]
            lines += [f"{change.name} on {change.host}: {line[line.index(NOT_TRAVELLING) :]}" for line in said[:1]]
    return lines


def rollback(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour = "npu",
    pin: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Bring the hosts back to the release that stood before the present one, as their records have it.

    Raises:
        DeployError: There is no earlier release, or a container did not become ready.
        ImageError: A host no longer has the earlier release's image.
    """
    inventory = load_inventory(hosts_file)
    name = inventory.name
    with connect_all(inventory) as clients, _held(clients, name, "rollback", reporter, dry_run=dry_run):
        release, specs = previous_release(clients, name)
        for spec in specs:
            if find(clients[spec.host], spec.image, spec.image_id, spec.content) is None:
                raise ImageError(
                    f"{spec.host} no longer has {spec.image} ({spec.image_id[:19]}), which release {release} ran.",
                    next_command=f"docker -H {spec.engine} load -i IMAGE.tar",
                )
        specs = fingerprinted(specs, clients)
        changes = decide(specs, observed(name, clients))
        document = {"deployment": name, "release": release, "changes": [change.document() for change in changes]}
        reporter.say(f"going back to release {release}")
        rollout = _rollout(project, inventory, clients, reporter)
        if dry_run:
            units = rollout.plan(changes)
            _show(reporter, changes, units)
            return {**document, "state": "planned", "steps": _listed(units)}
        with audited(project, clients, name, "rollback", changes, specs, rollout.states):
            rollout.run(changes)
    changed = any(change.action != "keep" for change in changes)
    return {**document, "state": "rolled back" if changed else "unchanged", "seconds": rollout.seconds}


def clean(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour = "npu",
    pin: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Stop and remove every container and volume of the deployment, on all hosts that answer; images stay.

    Raises:
        EnvironmentFailure: A host did not answer; the others are clean.
    """
    inventory = load_inventory(hosts_file)
    name = inventory.name
    if lab_is_gone(inventory):
        # Containers end with their engines, so `deploy.clean lab.down` also works after the lab was lost.
        reporter.say(f"nothing of {name} is left: the lab's hosts are gone")
        return {"deployment": name, "state": "unchanged", "containers": [], "volumes": [], "silent": []}
    with connect_answering(inventory) as (clients, silent):
        for host, why in silent.items():
            reporter.say(f"    {host} is left out: {why}")
        if dry_run:
            there = [{"host": each.host, "name": each.name} for each in observed(name, clients)]
            for each in there:
                reporter.say(f"would remove {each['name']} on {each['host']}")
            return {
                "deployment": name,
                "state": "planned",
                "containers": there,
                "volumes": [],
                "silent": sorted(silent),
            }
        with records.locked(clients, name, "clean", reporter):
            removed = remove_all(clients, name, inventory.containers.stop_seconds, reporter)
            for host, client in clients.items():
                keep_copy(project, name, host, client)
                records.forget(client, name)
                host_survey.forget(client, name)
    state = "removed" if removed["containers"] or removed["volumes"] else "unchanged"
    if state == "unchanged":
        reporter.say(f"nothing of {name} is on its hosts")
    document = {"deployment": name, "state": state, **removed, "silent": sorted(silent)}
    _demand_all_clean(inventory, silent, document)
    return document


def _demand_all_clean(inventory: Inventory, silent: Mapping[str, str], document: dict[str, Any]) -> None:
    # What runs on a lab's host ends with its engine; a machine whose engine is silent may still serve.
    left = [host for host in inventory.hosts if host.name in silent and not host.engine.startswith(LAB_ENGINES)]
    if left:
        raise EnvironmentFailure(
            f"{', '.join(host.name for host in left)} did not answer and may still run containers of "
            f"{inventory.name}; the other hosts are clean.",
            next_command=f"docker -H {left[0].engine} info",
            document=document,
        )


def observed(deployment: str, clients: Mapping[str, DockerClient]) -> list[Observed]:
    """Return the deployment's containers on all hosts."""
    return [each for host, client in clients.items() for each, _ in containers.listed(client, host, deployment)]


def _held(
    clients: Mapping[str, DockerClient], deployment: str, command: str, reporter: Reporter, *, dry_run: bool
) -> AbstractContextManager[None]:
    return nullcontext() if dry_run else records.locked(clients, deployment, command, reporter)


def _bring_image(situation: Situation, reporter: Reporter) -> list[str]:
    without = preflight.lacking_image(situation)
    if without:
        situation.source.bring(without, reporter)
    return [host.name for host in without]


def _rollout(
    project: Project, inventory: Inventory, clients: Mapping[str, DockerClient], reporter: Reporter
) -> Rollout:
    addresses = {host.name: host.address for host in inventory.hosts}
    folder = log_folder(project.build)
    return Rollout(clients, inventory.name, folder, reporter, inventory.deadlines.drain, addresses)


def _show(reporter: Reporter, changes: Sequence[Change], units: Sequence[Unit]) -> None:
    table = Table("host", "container", "action", "because")
    for change in changes:
        table.add_row(change.host, change.name, change.action, change.reason)
    reporter.render(table)
    reporter.say("steps, in order; those of one number stand or fall together:")
    for number, unit in enumerate(_listed(units), 1):
        for line in unit["steps"]:
            reporter.say(f"  {number:>3}. {line}")


def _listed(units: Sequence[Unit]) -> list[dict[str, Any]]:
    return [{"apart": unit.apart, "steps": [", ".join(map(str, batch)) for batch in unit.batches]} for unit in units]


def unlock(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour = "npu",
    pin: str = "",
    owner: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Remove the locks of a command that no longer runs, and of a named owner.

    Args:
        project: The checkout.
        reporter: Says what is done.
        hosts_file: The inventory.
        flavour: ``npu`` or ``cpu``; a lock has none.
        pin: The same.
        owner: Whose lock is removed although nobody here can tell whether the command still runs: ``user@machine``, or
            ``unknown`` for a lock that does not say.
        dry_run: Say who holds what, and change nothing.

    Raises:
        DeployError: Somebody else holds a lock; the message says who, and since when.
        EnvironmentFailure: A host did not answer; the others are not locked.
    """
    inventory = load_inventory(hosts_file)
    removed, held = [], []
    with connect_answering(inventory) as (clients, silent):
        for host, why in silent.items():
            reporter.say(f"    {host} is left out: {why}")
        for host, (holder, lock) in records.holders(clients, inventory.name).items():
            who = str(holder) if holder else "somebody who is not named"
            if (holder is None and owner == UNKNOWN) or (holder and (holder.is_gone() or holder.owner == owner)):
                reporter.say(f"    the lock on {host} {'would be' if dry_run else 'is'} removed: {who}")
                removed.append({"host": host, "holder": who})
                if not dry_run:
                    lock.remove(force=True)
            else:
                held.append((f"{host}: {who}", holder.owner if holder else UNKNOWN))
    if held:
        raise DeployError(
            f"{inventory.name} is locked on {'; '.join(told for told, _ in held)}.",
            next_command=f"invoke deploy.unlock --owner {held[0][1]}   (only if that command no longer runs)",
        )
    if silent:
        raise EnvironmentFailure(
            f"{', '.join(silent)} did not answer and may still be locked; no other host of {inventory.name} is.",
            next_command="invoke deploy.unlock",
        )
    if not removed:
        reporter.say(f"{inventory.name} is not locked")
    return {"deployment": inventory.name, "state": "unlocked" if removed else "unchanged", "removed": removed}
