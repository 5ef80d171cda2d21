"""``invoke patch.rebase``, ``patch.continue``, ``patch.abort`` and ``patch.matrix``: to another upstream state."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from yrpd.documents.series import load_lock, load_series, require_locked
from yrpd.errors import ConfigurationError, PatchConflictError
from yrpd.patching import apply, matrix, rebase
from yrpd.patching.commands import failures
from yrpd.patching.conflicts import Conflict
from yrpd.patching.rebase import Rebase
from yrpd.patching.source import Source, ensure_source, say_fetch
from yrpd.project import Project
from yrpd.release import Pin, Release, load_release
from yrpd.reporting import Reporter

Document = dict[str, Any]
_SHOWN_LINES = 6


def begin(project: Project, reporter: Reporter, to: str, pin: str = "", dry_run: bool = False) -> Document:
    """Carry a series to another upstream state.

    Args:
        project: The checkout.
        reporter: Says what is done.
        to: The upstream state, a table under ``[known]`` or ``[pins]``.
        pin: The pin whose series is carried; empty means the default one.
        dry_run: Say which patches fit, and change nothing; sources that are not here yet are fetched for it, and kept.

    Raises:
        ConfigurationError: No tag, or an unknown one, was named.
        PatchConflictError: A patch conflicts; the state is kept for ``patch.continue``.
    """
    if not to:
        raise ConfigurationError(
            "patch.rebase does not say which tag the series is to be carried to.",
            next_command="invoke patch.rebase --to TAG   (invoke patch.matrix names the tags)",
        )
    release = load_release(project.release_file)
    name, wanted = release.pin(pin)
    target, onto = _target(release, name, to)
    series = load_series(project.patches(name))
    lock = load_lock(series.folder)
    require_locked(series, lock, name, wanted)
    _require_free(project, target)
    if dry_run:
        return {**matrix.of(project, reporter, name, [target]), "from": name, "to": target, "dry_run": True}
    with failures(), apply.exclusive(project, target):
        source = _source(project, name, wanted, reporter)
        new = ensure_source(project, target, onto, reporter)
        with reporter.step(f"preparing {name} and {target}"):
            begun = rebase.begin(project, series, lock, source, target, new)
        return _go_on(project, reporter, begun, new, onto)


def resume(project: Project, reporter: Reporter, to: str = "", dry_run: bool = False) -> Document:
    """Go on with a rebase after its conflict was resolved and staged, or committed.

    Args:
        project: The checkout.
        reporter: Says what is done.
        to: Which rebase; needed only when several are under way.
        dry_run: Check that it could go on, and change nothing.

    Raises:
        PatchConflictError: Files are still in conflict, or the next patch conflicts.
    """
    found = rebase.one_under_way(project, to)
    _, onto = load_release(project.release_file).pin(found.target)
    with failures(), apply.exclusive(project, found.target):
        _require_new(project, found.target, "invoke patch.abort   (removes what the rebase left, not the series)")
        _require_same_series(project, found)
        taken = rebase.take_over(found, look_only=dry_run)
        if dry_run:
            left = sum(step.outcome == rebase.PENDING for step in found.steps)
            reporter.say(f"would go on to {found.target}: {left} patches left")
            return {**_document(found), "state": "ready", "dry_run": True}
        return _go_on(project, reporter, taken, ensure_source(project, found.target, onto, reporter), onto)


def abort(project: Project, reporter: Reporter, to: str = "", dry_run: bool = False) -> Document:
    """Give a rebase up; the series and everything else are as they were before it.

    Args:
        project: The checkout.
        reporter: Says what is done.
        to: Which rebase; needed only when several are under way.
        dry_run: Say what would be removed, and change nothing.
    """
    found = rebase.one_under_way(project, to)
    with failures(), apply.exclusive(project, found.target):
        if not dry_run:
            rebase.remove(project, found)
    shown = found.folder.relative_to(project.root)
    reporter.say(f"{'would remove' if dry_run else 'removed'} {shown}; the series of {found.origin} is as it was")
    return {**_document(found), "state": "aborted", "dry_run": dry_run}


def fits(project: Project, reporter: Reporter, pin: str = "", dry_run: bool = False) -> Document:
    """Say which patches fit which upstream states, without a checkout.

    Args:
        project: The checkout.
        reporter: Gets the table.
        pin: The pin whose series is tried; empty means the default one.
        dry_run: Say what would be tried, and whose source would have to be fetched for it.
    """
    release = load_release(project.release_file)
    name, _ = release.pin(pin)
    if dry_run:
        fetch = say_fetch(project, release.upstream, reporter)
        reporter.say(f"would try the series of {name} on {', '.join(release.upstream)}")
        return {"pin": name, "state": "planned", "upstream": list(release.upstream), "fetch": fetch}
    return matrix.of(project, reporter, name, list(release.upstream))


def _target(release: Release, name: str, to: str) -> tuple[str, Pin]:
    others = [tag for tag in release.upstream if tag != name]
    if to not in others:
        told = "is where the series is already" if to == name else "is not in release.toml"
        raise ConfigurationError(
            f"The tag {to!r} {told}; there are: {', '.join(others) or 'none'}.",
            next_command="invoke patch.matrix   (a new tag is a new [known] table of release.toml)",
        )
    return release.pin(to)


def _require_free(project: Project, target: str) -> None:
    begun = [found for found in rebase.under_way(project) if found.target == target]
    if begun:
        raise PatchConflictError(
            f"A rebase from {begun[0].origin} to {target} is under way.",
            next_command="invoke patch.continue   (or, to give it up: invoke patch.abort)",
        )
    _require_new(project, target, f"invoke patch --pin {target}")


def _require_new(project: Project, target: str, following: str) -> None:
    if project.patches(target).exists():
        raise ConfigurationError(
            f"patches/{target} exists already; a rebase makes it anew and overwrites nothing.", next_command=following
        )


def _source(project: Project, name: str, pin: Pin, reporter: Reporter) -> Source:
    with apply.exclusive(project, name):
        return ensure_source(project, name, pin, reporter)


def _require_same_series(project: Project, found: Rebase) -> None:
    if load_lock(project.patches(found.origin)).digest != found.lock:
        raise ConfigurationError(
            f"The series of {found.origin} changed since its rebase to {found.target} began.",
            next_command=f"invoke patch.abort && invoke patch.rebase --to {found.target}",
        )


def _go_on(project: Project, reporter: Reporter, begun: Rebase, onto: Source, pin: Pin) -> Document:
    series = load_series(project.patches(begun.origin))
    with reporter.step(f"carrying {len(begun.steps)} patches to {begun.target}"):
        carried, conflicts = rebase.carry(begun)
        if conflicts:
            raise _conflict(project, reporter, carried, conflicts)
    with (
        reporter.step(f"writing patches/{carried.target}"),
        rebase.finished(project, carried, series, onto, pin) as (made, folder),
    ):
        folder.rename(project.patches(carried.target))
        rebase.remove(project, carried)
    for step in carried.steps:
        reporter.say(f"    {step.outcome}: {step.file}")
    reporter.say(f"{carried.target}: series {made.lock.folder}, tree {made.lock.end.tree[:12]}")
    following = f"invoke patch --pin {carried.target} patch.check --pin {carried.target}"
    reporter.say(f"next: {following}")
    return {
        **_document(carried),
        "state": "rebased",
        "tree": made.lock.end.tree,
        "commit": made.lock.end.commit,
        "series_digest": made.lock.digest,
        "next": following,
        "dry_run": False,
    }


def _document(found: Rebase) -> Document:
    patches = [{"file": step.file, "outcome": step.outcome} for step in found.steps]
    return {"from": found.origin, "to": found.target, "patches": patches}


def _conflict(
    project: Project, reporter: Reporter, found: Rebase, conflicts: tuple[Conflict, ...]
) -> PatchConflictError:
    reporter.render(conflict_table(found, conflicts))
    tree = found.tree.folder.relative_to(project.root)
    following = f"resolve the files in {tree}, then: git -C {tree} add -A && invoke patch.continue"
    files = ", ".join(conflict.file for conflict in conflicts)
    return PatchConflictError(
        f"{conflicts[0].patch} does not fit {found.target}: conflicts in {files}.",
        next_command=f"{following}   (or, to give it up: invoke patch.abort)",
        document={
            **_document(found),
            "state": "conflict",
            "worktree": tree.as_posix(),
            "conflicts": [conflict.document() for conflict in conflicts],
            "next": following,
            "dry_run": False,
        },
    )


def conflict_table(found: Rebase, conflicts: tuple[Conflict, ...]) -> Table:
    """Return patch, file, lines, and what upstream changed there."""
    title = f"{conflicts[0].patch} on {found.target}"
    table = Table(title=title, show_lines=True)
    for column in ("file", "lines", f"changed by {found.target}", "wanted by the patch"):
        table.add_column(column, overflow="fold")
    for conflict in conflicts:
        for region in conflict.regions:
            lines = f"{region.first}-{region.last}"
            table.add_row(Text(conflict.file), lines, _some(region.upstream), _some(region.patch))
        if not conflict.regions:
            table.add_row(Text(conflict.file), "", conflict.kind, "")
    return table


def _some(lines: tuple[str, ...]) -> Text:
    more = [f"({len(lines) - _SHOWN_LINES} more lines)"] if len(lines) > _SHOWN_LINES else []
    return Text("\n".join([*lines[:_SHOWN_LINES], *more]))
