"""``invoke deploy*``."""

from __future__ import annotations

from typing import Any

from yrpd.cli import resolve_flavour, resolve_pin
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.tasks.declaring import command, hosts_file


def _run(
    name: str, project: Project, reporter: Reporter, hosts: str, flavour: str, pin: str, **options: Any
) -> dict[str, Any]:
    from yrpd.deploying import commands

    document: dict[str, Any] = getattr(commands, name)(
        project=project,
        reporter=reporter,
        hosts_file=hosts_file(hosts, flavour),
        flavour=resolve_flavour(flavour),
        pin=resolve_pin(pin),
        **options,
    )
    return document


@command(default=True)
def rollout(
    project: Project, reporter: Reporter, hosts: str = "", flavour: str = "", pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Start openYuanrong, prefill, decode and the router on the hosts."""
    return _run("deploy", project, reporter, hosts, flavour, pin, dry_run=dry_run)


@command(
    format="table, run (docker lines), json, compose (a file per host), kubernetes or monitoring.",
    output="Folder that gets the files; printed when empty.",
)
def plan(
    project: Project,
    reporter: Reporter,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    format: str = "table",
    output: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Print the containers that deploy would start. Asks no host."""
    return _run("plan", project, reporter, hosts, flavour, pin, plan_format=format, output=output, dry_run=dry_run)


@command()
def status(project: Project, reporter: Reporter, hosts: str = "", flavour: str = "", pin: str = "") -> dict[str, Any]:
    """Say for each container: role, health, and whether it runs what this checkout would run."""
    return _run("status", project, reporter, hosts, flavour, pin)


@command(
    tail="Lines of each container.",
    role="Only these roles, separated by commas: etcd, worker, prefill, decode, router.",
    grep="Only lines in which this regular expression is found.",
    follow="Print new lines as they come.",
    save="Write whole logs and the hosts' records to this .tar.gz.",
)
def logs(
    project: Project,
    reporter: Reporter,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    tail: int = 100,
    role: str = "",
    grep: str = "",
    follow: bool = False,
    save: str = "",
) -> dict[str, Any]:
    """Print the last log lines of every container."""
    return _run(
        "logs", project, reporter, hosts, flavour, pin, tail=tail, role=role, grep=grep, follow=follow, save=save
    )


@command()
def rollback(
    project: Project, reporter: Reporter, hosts: str = "", flavour: str = "", pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Bring the hosts back to the release before the present one."""
    return _run("rollback", project, reporter, hosts, flavour, pin, dry_run=dry_run)


@command()
def verify(
    project: Project, reporter: Reporter, hosts: str = "", flavour: str = "", pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Prove the endpoint's answers equal to plain vLLM's, and that P's blocks were loaded by D."""
    return _run("verify", project, reporter, hosts, flavour, pin, dry_run=dry_run)


@command()
def clean(
    project: Project, reporter: Reporter, hosts: str = "", flavour: str = "", pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Stop and remove everything that deploy started."""
    return _run("clean", project, reporter, hosts, flavour, pin, dry_run=dry_run)
