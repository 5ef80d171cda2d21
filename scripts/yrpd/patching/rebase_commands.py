"""``invoke patch.rebase``: a series goes to another upstream state; the same command goes on after a conflict."""

from __future__ import annotations

from typing import Any

from yrpd.documents.series import load_lock, load_series, require_locked
from yrpd.errors import ConfigurationError, PatchConflictError
from yrpd.patching import apply, rebase
from yrpd.patching.commands import failures
from yrpd.patching.rebase import Rebase
from yrpd.patching.source import Source, ensure_source
from yrpd.project import Project
from yrpd.release import Pin, Release, load_release
from yrpd.reporting import Reporter

Document = dict[str, Any]


def begin(
    project: Project, reporter: Reporter, to: str, pin: str = "", abort: bool = False, dry_run: bool = False
) -> Document:
    """Carry a series to another upstream state, or go on with that after a conflict was resolved.

    Args:
        project: The checkout.
        reporter: Says what is done.
        to: The upstream state, a table under ``[known]`` or ``[pins]``.
        pin: The pin whose series is carried; empty means the default one, or that of the rebase which is under way.
        abort: Give up the rebase that is under way; the series and everything else are as they were before it.
        dry_run: Say which patches fit, or that the rebase could go on, and change nothing; sources that are not here
            yet are fetched for the former, and kept.

    Raises:
        ConfigurationError: No tag, or an unknown one, was named; or the series changed since the rebase began.
        PatchConflictError: A patch conflicts, and the state is kept; files are still in conflict; or the rebase that is
            under way carries another pin's series.
    """
    release = load_release(project.release_file)
    begun = rebase.under_way(project, to)
    if begun is not None:
        if pin not in ("", begun.origin):
            raise PatchConflictError(
                f"A rebase from {begun.origin} to {to} is under way.",
                next_command=f"invoke patch.rebase --to {to} --pin {begun.origin}   "
                f"(or, to give it up: {_give_up(begun)})",
            )
        if abort:
            return _abort(project, reporter, begun, dry_run)
        return _resume(project, reporter, begun, release.pin(to)[1], dry_run)
    if abort:
        message = f"No rebase{f' to {to}' if to else ''} is under way."
        raise ConfigurationError(message, next_command="invoke patch.rebase --to TAG")
    name, wanted = release.pin(pin)
    target, onto = _target(release, name, to)
    series = load_series(project.patches(name))
    lock = load_lock(series.folder)
    require_locked(series, lock, name, wanted)
    _require_new(project, target, f"invoke patch --pin {target}")
    with failures(), apply.exclusive(project, name):
        source = ensure_source(project, name, wanted, reporter)
    with failures(), apply.exclusive(project, target):
        new = ensure_source(project, target, onto, reporter)
        with (
            reporter.step(f"preparing {name} and {target}"),
            rebase.prepared(project, series, lock, source, target, new) as made,
        ):
            if dry_run:
                return _fits(reporter, made)
            begun = rebase.begin(project, made)
        return _go_on(project, reporter, begun, new, onto)


def _resume(project: Project, reporter: Reporter, found: Rebase, onto: Pin, dry_run: bool) -> Document:
    with failures(), apply.exclusive(project, found.target):
        _require_new(project, found.target, f"{_give_up(found)}   (what the rebase left, not the series)")
        _require_same_series(project, found)
        rebase.require_ready(found)
        if dry_run:
            document = _document(found)
            left = sum(patch["outcome"] == rebase.PENDING for patch in document["patches"])
            reporter.say(f"would go on to {found.target}: {left} patches left")
            return {**document, "state": "ready", "dry_run": True}
        new = ensure_source(project, found.target, onto, reporter)
        rebase.take_over(found)
        return _go_on(project, reporter, found, new, onto)


def _abort(project: Project, reporter: Reporter, found: Rebase, dry_run: bool) -> Document:
    with failures(), apply.exclusive(project, found.target):
        document = _document(found)
        if not dry_run:
            rebase.remove(project, found)
    shown = found.folder.relative_to(project.root)
    reporter.say(f"{'would remove' if dry_run else 'removed'} {shown}; the series of {found.origin} is as it was")
    return {**document, "state": "aborted", "dry_run": dry_run}


def _give_up(found: Rebase) -> str:
    return f"invoke patch.rebase --to {found.target} --abort"


def _target(release: Release, name: str, to: str) -> tuple[str, Pin]:
    others = [tag for tag in release.upstream if tag != name]
    if to in others:
        return release.pin(to)
    told = "is where the series is already" if to == name else "is not in release.toml"
    raise ConfigurationError(
        (f"The tag {to!r} {told}" if to else "patch.rebase does not say which tag the series is to be carried to")
        + f"; there are: {', '.join(others) or 'none'}.",
        next_command="invoke patch.rebase --to TAG   (a new tag is a new [known] table of release.toml)",
    )


def _require_new(project: Project, target: str, following: str) -> None:
    if project.patches(target).exists():
        message = f"patches/{target} exists already; a rebase makes it anew and overwrites nothing."
        raise ConfigurationError(message, next_command=following)


def _require_same_series(project: Project, found: Rebase) -> None:
    if load_lock(project.patches(found.origin)) != found.lock:
        message = f"The series of {found.origin} changed since its rebase to {found.target} began."
        raise ConfigurationError(message, next_command=f"{_give_up(found)} && invoke patch.rebase --to {found.target}")


def _fits(reporter: Reporter, made: Rebase) -> Document:
    patches = rebase.try_out(made)
    for patch in patches:
        files = ", ".join(patch["conflicts"])
        reporter.say(f"    {patch['fit']}: {patch['file']}{f' ({files})' if files else ''}")
    fits = all(patch["fit"] != "conflict" for patch in patches)
    tags = {made.target: {"fits": fits, "patches": patches}}
    return {"pin": made.origin, "tags": tags, "from": made.origin, "to": made.target, "dry_run": True}


def _go_on(project: Project, reporter: Reporter, begun: Rebase, onto: Source, pin: Pin) -> Document:
    series = load_series(project.patches(begun.origin))
    with reporter.step(f"carrying {len(begun.old)} patches to {begun.target}"):
        conflicts = rebase.carry(begun)
        if conflicts:
            raise _conflict(project, reporter, begun, conflicts)
    document = _document(begun)
    with reporter.step(f"writing patches/{begun.target}"):
        lock = rebase.finish(project, begun, series, onto, pin)
    for patch in document["patches"]:
        reporter.say(f"    {patch['outcome']}: {patch['file']}")
    reporter.say(f"{begun.target}: series {lock.folder}, tree {lock.end.tree[:12]}")
    following = f"invoke patch --pin {begun.target} patch.check --pin {begun.target}"
    reporter.say(f"next: {following}")
    return {
        **document,
        "state": "rebased",
        "tree": lock.end.tree,
        "commit": lock.end.commit,
        "series_digest": lock.digest,
        "next": following,
        "dry_run": False,
    }


def _document(found: Rebase) -> Document:
    patches = [{"file": file, "outcome": outcome} for file, outcome in rebase.outcomes(found).items()]
    return {"from": found.origin, "to": found.target, "patches": patches}


def _conflict(project: Project, reporter: Reporter, found: Rebase, files: list[str]) -> PatchConflictError:
    tree, patch = found.tree.folder.relative_to(project.root), found.stopped_at
    for file in files:
        reporter.say(f"{tree}/{file}: {patch}")
    reporter.say(found.tree.line("diff"))  # what upstream and the patch did to the lines that the patch was made on
    following = f"resolve the files in {tree}, then: git -C {tree} add -A && invoke patch.rebase --to {found.target}"
    return PatchConflictError(
        f"{patch} does not fit {found.target}: conflicts in {', '.join(files)}.",
        next_command=f"{following}   (or, to give it up: {_give_up(found)})",
        document={
            **_document(found),
            "state": "conflict",
            "worktree": tree.as_posix(),
            "conflicts": [{"patch": patch, "file": file} for file in files],
            "next": following,
            "dry_run": False,
        },
    )
