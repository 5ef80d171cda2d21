"""Those commands of ``invoke deploy*`` that need more than one stage, or print what a stage found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from yrpd.commands.image_sources import image_source
from yrpd.deploying import deploy as deploying
from yrpd.deploying.hosts.engines import connect_answering
from yrpd.deploying.planning.deployment import read_deployment
from yrpd.deploying.preflight.fingerprints import fingerprinted
from yrpd.deploying.status.status import status_document, status_tables
from yrpd.project import Project
from yrpd.release import Flavour
from yrpd.reporting import Reporter


def deploy(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour = "npu",
    pin: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Bring the hosts to the planned state; see ``deploying.deploy.deploy``."""
    source_of = partial(image_source, project)
    return deploying.deploy(project, reporter, hosts_file, source_of, flavour, pin, dry_run)


def status(
    project: Project, reporter: Reporter, hosts_file: Path, flavour: Flavour = "npu", pin: str = ""
) -> dict[str, Any]:
    """Say for each container: role, health, and whether it runs what this checkout would run."""
    deployment = read_deployment(project, hosts_file, flavour, pin)
    with connect_answering(deployment.inventory) as (clients, silent):
        deployment = replace(deployment, specs=fingerprinted(deployment.specs, clients))
        document = status_document(deployment, clients, silent, datetime.now(tz=UTC))
    for table in status_tables(document):
        reporter.render(table)
    return {**document, "endpoint": deployment.endpoint}
