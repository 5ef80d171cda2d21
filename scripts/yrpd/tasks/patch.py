"""``invoke patch*``."""

from __future__ import annotations

from typing import Any

from yrpd.cli import resolve_pin
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.tasks.declaring import command

_TO = "An upstream tag of release.toml; to go on or give up, needed only when several rebases are under way."


@command(default=True, discard="Give up local edits of the work tree.")
def apply(
    project: Project, reporter: Reporter, pin: str = "", discard: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Fetch the pinned vllm-ascend, prove it, and apply the patch series to it."""
    from yrpd.patching import commands

    return commands.patch(project=project, reporter=reporter, pin=resolve_pin(pin), discard=discard, dry_run=dry_run)


@command()
def check(project: Project, reporter: Reporter, pin: str = "") -> dict[str, Any]:
    """Prove the series: files, hashes, connector_src, blob ids, resulting tree. Changes nothing."""
    from yrpd.patching import commands

    return commands.check(project=project, reporter=reporter, pin=resolve_pin(pin))


@command()
def export(project: Project, reporter: Reporter, pin: str = "", dry_run: bool = False) -> dict[str, Any]:
    """Write the series back from connector_src and the work tree; untouched patches keep their bytes."""
    from yrpd.patching import commands

    return commands.export(project=project, reporter=reporter, pin=resolve_pin(pin), dry_run=dry_run)


@command()
def lint(project: Project, reporter: Reporter, pin: str = "") -> dict[str, Any]:
    """Hold the files of the series against the rules; no source and no work tree is needed. Changes nothing."""
    from yrpd.patching import commands

    return commands.lint(project=project, reporter=reporter, pin=resolve_pin(pin))


@command()
def status(project: Project, reporter: Reporter, pin: str = "") -> dict[str, Any]:
    """Say which side is ahead (pin, series, connector_src, work tree) and which command comes next. Changes nothing."""
    from yrpd.patching import commands

    return commands.status(project=project, reporter=reporter, pin=resolve_pin(pin))


@command(to=_TO)
def rebase(project: Project, reporter: Reporter, to: str = "", pin: str = "", dry_run: bool = False) -> dict[str, Any]:
    """Carry the series to another upstream tag; stops where a patch conflicts."""
    from yrpd.patching import moving

    return moving.begin(project=project, reporter=reporter, to=to, pin=resolve_pin(pin), dry_run=dry_run)


@command("continue", to=_TO)
def resume(project: Project, reporter: Reporter, to: str = "", dry_run: bool = False) -> dict[str, Any]:
    """Go on with a rebase after the conflict was resolved and staged, or committed."""
    from yrpd.patching import moving

    return moving.resume(project=project, reporter=reporter, to=to, dry_run=dry_run)


@command(to=_TO)
def abort(project: Project, reporter: Reporter, to: str = "", dry_run: bool = False) -> dict[str, Any]:
    """Give a rebase up; everything is as it was before."""
    from yrpd.patching import moving

    return moving.abort(project=project, reporter=reporter, to=to, dry_run=dry_run)


@command()
def matrix(project: Project, reporter: Reporter, pin: str = "") -> dict[str, Any]:
    """Say which patches fit which upstream tags, without a checkout."""
    from yrpd.patching import moving

    return moving.fits(project=project, reporter=reporter, pin=resolve_pin(pin))


@command(rounds="How often each is run; the median counts.")
def figures(
    project: Project, reporter: Reporter, pin: str = "", rounds: int = 3, dry_run: bool = False
) -> dict[str, Any]:
    """Measure the patch commands beside bare git on the same series."""
    from yrpd.patching import figures as measuring

    return measuring.measure(project=project, reporter=reporter, pin=resolve_pin(pin), rounds=rounds, dry_run=dry_run)
