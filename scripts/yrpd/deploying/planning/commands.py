"""``deploy.plan``: prints what deploy would start, in the form that was asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from yrpd.deploying.planning import formats as plans
from yrpd.deploying.planning.deployment import Deployment, read_deployment
from yrpd.project import Project
from yrpd.release import Flavour
from yrpd.reporting import Reporter
from yrpd.tables import fitted


def plan(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour = "npu",
    pin: str = "",
    plan_format: str = "table",
    output: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Print what deploy would start: as a table, docker lines, JSON or Kubernetes manifests.

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
    console = Console(width=80, file=io.StringIO(), markup=False, emoji=False)
    with console.capture() as captured:
        console.print(fitted(table, console))
    return captured.get()
