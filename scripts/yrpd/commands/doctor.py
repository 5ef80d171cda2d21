"""``invoke doctor``: what is wrong here and on the hosts, how to mend it, and an archive of all that was seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from yrpd.commands.deploy import deploy, status
from yrpd.deploying.hosts.engines import connect_answering
from yrpd.deploying.inventory import load_inventory
from yrpd.deploying.status.logs import archive, selected
from yrpd.docker.connection import connect
from yrpd.docker.sdk import DockerException
from yrpd.documents.patched import load_patched
from yrpd.errors import EnvironmentFailure, YrpdError
from yrpd.patching.commands import check
from yrpd.project import Project
from yrpd.release import Flavour
from yrpd.reporting import Reporter

Look = Callable[[], dict[str, Any]]


def doctor(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour = "npu",
    pin: str = "",
    save: str = "doctor.tar.gz",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Look at everything, change nothing, and go on after what is wrong.

    Args:
        project: The checkout.
        reporter: Says what is found.
        hosts_file: The inventory.
        flavour: ``npu`` or ``cpu``.
        pin: The pin; empty means the default one.
        save: The archive for a report: what was seen here, all containers' logs, the hosts' records.
        dry_run: Only say what would be looked at.

    Returns:
        ``{looked_at: {NAME: document}, problems: [{looked_at, problem, fix}], saved}``.

    Raises:
        EnvironmentFailure: Something is wrong; the document is the same.
    """
    looks: dict[str, Look] = {
        "series and pin": partial(check, project=project, reporter=reporter, pin=pin),
        "patched tree": lambda: {"tree": load_patched(project, pin)[1].tree},
        "this machine's engine": _engine,
        "hosts": partial(deploy, project, reporter, hosts_file, flavour, pin, dry_run=True),
        "containers": partial(status, project, reporter, hosts_file, flavour, pin),
    }
    if dry_run:
        reporter.say(f"would look at: {', '.join(looks)}; and write {save}")
        return {"state": "planned", "looks": list(looks), "save": save}
    seen: dict[str, Any] = {}
    problems: list[dict[str, str]] = []
    for name, look in looks.items():
        reporter.say(f"==> {name}")
        try:
            seen[name] = look()
        except YrpdError as error:
            seen[name] = error.document or {"error": error.message, "detail": error.detail}
            problems.append({"looked_at": name, "problem": error.message, "fix": error.next_command})
        else:
            problems += [{"looked_at": name, **each} for each in _found(seen[name])]
    document = {"looked_at": seen, "problems": problems, "saved": save}
    try:
        _save(project, Path(save), hosts_file, document)
    except YrpdError as error:
        document["saved"] = ""
        problems.append({"looked_at": "logs", "problem": error.message, "fix": error.next_command})
    for each in problems:
        reporter.say(f"    [{each['looked_at']}] {each['problem']}; {each['fix']}")
    if problems:
        message = f"{len(problems)} things are wrong; what was seen is in {save}."
        raise EnvironmentFailure(message, next_command=problems[0]["fix"], document=document)
    reporter.say(f"nothing is wrong; what was seen is in {save}")
    return document


def _engine() -> dict[str, Any]:
    with closing(connect()) as client:
        try:
            return {key: client.version().get(key, "") for key in ("Version", "ApiVersion", "Arch", "KernelVersion")}
        except DockerException as error:
            message = f"The engine does not tell its version: {error}."
            raise EnvironmentFailure(message, next_command="docker info") from error


def _found(document: dict[str, Any]) -> list[dict[str, str]]:
    """Return what is wrong in a document of preflight, or of a status where something runs."""
    problems = [
        {"problem": f"{each['host']}: {each['message']}", "fix": each["fix"]} for each in document.get("findings", ())
    ]
    # A plan has containers, too, and nothing to say of their health.
    containers = [each for each in document.get("containers", ()) if "health" in each]
    if any(each["state"] != "absent" for each in containers):
        problems += [
            {"problem": f"{each['name']} on {each['host']} is {each['health']}", "fix": "invoke deploy"}
            for each in containers
            if each["health"] != "healthy"
        ]
    return problems


def _save(project: Project, path: Path, hosts_file: Path, document: dict[str, Any]) -> None:
    inventory = load_inventory(hosts_file)
    texts = {"doctor.json": json.dumps(document, indent=2, sort_keys=True), hosts_file.name: hosts_file.read_text()}
    proof = project.dist / "verify.json"
    if proof.is_file():
        texts[proof.name] = proof.read_text(encoding="utf-8")
    with connect_answering(inventory) as (clients, _):
        archive(path, clients, inventory.name, selected(clients, inventory.name, ""), texts)
