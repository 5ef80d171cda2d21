"""``lab.faults``: faults under load on the running deployment of a lab, and the table of what they did."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workshop.faults.cases import FAULTS, Fault
from workshop.faults.fault_table import inserted, markdown
from workshop.faults.known import Known, known_answers
from workshop.faults.measuring import Row, measure
from workshop.faults.site import Site
from workshop.lab.layout import read_lab
from yrpd.deploying.hosts.engines import connect_all
from yrpd.deploying.planning.deployment import read_deployment
from yrpd.errors import ConfigurationError, VerificationError
from yrpd.project import Project, write_json
from yrpd.release import Flavour
from yrpd.reporting import Reporter

RESULTS = "faults.json"
_AGAIN = "invoke lab.faults"


def faults(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour,
    pin: str = "",
    only: str = "",
    output: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make one fault after the other happen to a lab's running deployment, with a steady stream of requests.

    Args:
        project: The checkout.
        reporter: Says what is done.
        hosts_file: The lab's inventory; it must be deployed.
        flavour: What runs.
        pin: What runs; the default pin when empty.
        only: A regular expression; faults whose name it is not found in are left out.
        output: Markdown file whose table is exchanged, with rows of earlier runs on the same image; none when empty.
        dry_run: Only say which faults.

    Returns:
        ``{faults: [row]}``; ``build/faults.json`` has the rows of earlier runs on the same image, too.

    Raises:
        ConfigurationError: No fault has such a name, or the file has no place for the table.
        VerificationError: A fault led to a wrong or hanging answer, or left something behind.
    """
    chosen = choose(only)
    page = Path(output).read_text(encoding="utf-8") if output else ""
    if output:
        _page(page, output, [])
    if dry_run:
        for fault in chosen:
            reporter.say(fault.name)
        return {"state": "planned", "faults": [{"fault": fault.name} for fault in chosen]}
    kept: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    with site_of(project, reporter, hosts_file, flavour, pin) as (site, known):
        image = site.deployment.image.id
        kept = earlier(project.build / RESULTS, image)
        for fault in chosen:
            if not fault.applies(site):
                reporter.say(f"    left out, since it cannot happen here: {fault.name}")
                continue
            rows.append(_measured(fault, site, known, reporter).document())
            kept[fault.name] = rows[-1]
            write_json(project.build / RESULTS, {"image": image, "faults": in_order(kept)})
    if output:
        Path(output).write_text(_page(page, output, in_order(kept)), encoding="utf-8")
    reporter.say(markdown(rows))
    bad = [row["fault"] for row in rows if not row["good"]]
    if bad:
        raise VerificationError(
            f"Not as it should be: {'; '.join(bad)}.", next_command=_AGAIN, document={"faults": rows}
        )
    return {"faults": rows}


def earlier(results: Path, image: str) -> dict[str, dict[str, Any]]:
    """Return the rows that earlier runs on the same image have left, by the fault's name."""
    try:
        document = json.loads(results.read_text(encoding="utf-8"))
        return {row["fault"]: row for row in document["faults"]} if document["image"] == image else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def in_order(rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in the order of the faults."""
    return [rows[fault.name] for fault in FAULTS if fault.name in rows]


def choose(only: str) -> list[Fault]:
    """Return the faults whose name a regular expression is found in.

    Raises:
        ConfigurationError: There is none, or it is no regular expression.
    """
    try:
        found = [fault for fault in FAULTS if re.search(only, fault.name)]
    except re.error as error:
        raise ConfigurationError(f"{only!r} is no regular expression: {error}.", next_command=_AGAIN) from error
    if not found:
        names = "; ".join(fault.name for fault in FAULTS)
        raise ConfigurationError(f"There is no fault {only!r}; there are: {names}.", next_command=_AGAIN)
    return found


@contextmanager
def site_of(
    project: Project, reporter: Reporter, hosts_file: Path, flavour: Flavour, pin: str = ""
) -> Iterator[tuple[Site, Known]]:
    """Read a running deployment of a lab, and what it can be asked."""
    deployment = read_deployment(project, hosts_file.absolute(), flavour, pin)
    with tempfile.TemporaryDirectory() as scratch, connect_all(deployment.inventory) as clients:
        known = known_answers(deployment, clients, reporter)
        yield Site(deployment, read_lab(hosts_file), clients, Path(scratch), reporter), known


def _measured(fault: Fault, site: Site, known: Known, reporter: Reporter) -> Row:
    with reporter.step(fault.name):
        row = measure(fault, site, known)
    for name in ("problems", "left"):
        for problem in row.document()[name]:
            reporter.say(f"    {problem}")
    return row


def _page(page: str, output: str, rows: Sequence[dict[str, Any]]) -> str:
    try:
        return inserted(page, markdown(rows))
    except ValueError as error:
        raise ConfigurationError(f"{output}: {error}.", next_command=_AGAIN) from error
