"""``invoke bench.report``: raw results in, report out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from workshop.bench.reporting.figure import draw
from workshop.bench.reporting.raw import arm_result
from workshop.bench.reporting.regression import regressions
from workshop.bench.reporting.rendering import document, markdown, target_table
from workshop.bench.reporting.targets import Results, targets
from workshop.bench.runs.ledger import Ledger
from yrpd.errors import ConfigurationError, VerificationError
from yrpd.project import Project, write_json
from yrpd.reporting import Reporter


def report(
    project: Project,
    reporter: Reporter,
    run: str = "",
    out: str = "",
    against: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Compute a run's report anew from its raw files.

    Args:
        project: The checkout.
        reporter: Prints.
        run: The run's folder; the newest one when empty.
        out: Folder for ``latest.json``, ``latest.md`` and the figure; the run's own when empty.
        against: A stored report to compare with.
        dry_run: Write nothing.

    Raises:
        ConfigurationError: There is no run, or the stored report was measured in another way.
        VerificationError: A raw file is not the one that was measured, or a target became worse.
    """
    folder = Path(run) if run else _newest(project)
    ledger = Ledger.read(folder)
    found = document(
        results := collect(ledger),
        targets(results),
        ledger.document["command"],
        ledger.document["configuration"],
        hashlib.sha256(json.dumps(ledger.document["results"], sort_keys=True).encode()).hexdigest(),
    )
    reporter.render(target_table(found["targets"]))
    target = Path(out) if out else folder
    if dry_run:
        reporter.say(f"would write the report to {target}")
        return found
    write_json(target / "latest.json", found)
    (target / "latest.md").write_text(markdown(found), encoding="utf-8")
    draw(found, [target / "latest.png", target / "latest.svg"])
    reporter.say(f"report: {target / 'latest.md'}")
    if against:
        stored = json.loads(Path(against).read_text(encoding="utf-8"))
        if worse := regressions(found, stored):
            raise VerificationError(
                f"{len(worse)} figures are worse than in {against}.", detail="\n".join(worse), document=found
            )
        reporter.say(f"no figure is worse than in {against}")
    return found


def collect(ledger: Ledger) -> Results:
    """Return every complete case of a run.

    Raises:
        VerificationError: A raw file is not the one that was measured.
        ConfigurationError: No repetition is complete.
    """
    found = {}
    for name, rounds in ledger.results().items():
        shape, length, load = name.rsplit("-", 2)
        size = int(ledger.document["configuration"]["block_size"])
        found[shape, int(length), load] = {arm: arm_result([each[arm] for each in rounds], size) for arm in rounds[0]}
    if not found:
        raise ConfigurationError(f"{ledger.folder} has no complete repetition.", next_command="invoke bench")
    return found


def _newest(project: Project) -> Path:
    runs = sorted((project.build / "bench" / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise ConfigurationError("No benchmark was run.", next_command="invoke bench --profile quick")
    return runs[-1].parent
