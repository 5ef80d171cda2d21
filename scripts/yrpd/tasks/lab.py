"""``invoke lab*``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yrpd.cli import resolve_flavour, resolve_pin
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.tasks.declaring import command, hosts_file


@command(disk_gb="Give each new host a disk of its own of this size; all share the machine's when 0.")
def up(
    project: Project, reporter: Reporter, hosts: str = "lab.toml", disk_gb: int = 0, dry_run: bool = False
) -> dict[str, Any]:
    """Make two or more real Docker hosts on this machine, those that the hosts file names."""
    from yrpd.deploying import lab

    return lab.up(project=project, reporter=reporter, hosts_file=Path(hosts), dry_run=dry_run, disk_gb=disk_gb)


@command(name="The lab's name; the shipped lab.toml's when empty.")
def down(project: Project, reporter: Reporter, name: str = "", dry_run: bool = False) -> dict[str, Any]:
    """Remove all that lab.up and lab.builder made, also after a crash."""
    from yrpd.deploying import lab

    return lab.down(project=project, reporter=reporter, dry_run=dry_run, lab_name=name or lab.DEFAULT_LAB)


@command()
def builder(project: Project, reporter: Reporter, dry_run: bool = False) -> dict[str, Any]:
    """Start a private Docker engine for building, where none runs."""
    from yrpd.deploying import lab

    return lab.builder(project=project, reporter=reporter, dry_run=dry_run)


@command(
    only="Regular expression; only faults whose name it is found in.",
    output="Markdown file whose table of faults is exchanged, such as docs/faults.md.",
)
def faults(
    project: Project,
    reporter: Reporter,
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    only: str = "",
    output: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make one fault after the other happen to the lab's deployment, under load, and check every answer."""
    from yrpd.deploying.lab.faults.commands import faults as run

    return run(
        project=project,
        reporter=reporter,
        hosts_file=hosts_file(hosts, flavour),
        flavour=resolve_flavour(flavour),
        pin=resolve_pin(pin),
        only=only,
        output=output,
        dry_run=dry_run,
    )
