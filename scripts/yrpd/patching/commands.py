"""``invoke patch`` and its family, except for moving to another upstream: each reads like what it does.

What only one command needs is imported in it: a run with nothing to do takes no longer than its imports.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from yrpd.documents.series import LOCK, SERIES, Series, load_lock, load_series, require_locked
from yrpd.errors import EnvironmentFailure, PinMismatchError, YrpdError
from yrpd.git.repository import GitError
from yrpd.patching import apply
from yrpd.patching import lint as linting
from yrpd.patching.source import check_cached_sdist, ensure_source, say_fetch
from yrpd.project import Project, read_state, update_state
from yrpd.release import Pin, load_release
from yrpd.reporting import Reporter

Document = dict[str, Any]


def patch(
    project: Project, reporter: Reporter, pin: str = "", dry_run: bool = False, discard: bool = False
) -> Document:
    """Make the patched tree, or say why it is already there.

    Args:
        project: The checkout.
        reporter: Says what is done.
        pin: A pin's name; empty means the default one.
        dry_run: Say what would be done, and change nothing.
        discard: Drop edits in the work tree instead of refusing.

    Returns:
        The record for later stages, with ``state``, ``reasons`` and ``warnings``.
    """
    release = load_release(project.release_file)
    name, wanted = release.pin(pin)
    series = load_series(project.patches(name))
    lock = load_lock(series.folder)
    require_locked(series, lock, name, wanted)
    check_cached_sdist(project, wanted)
    warnings = [told for _, told in linting.connector_drift(project, series)]
    with failures(), nullcontext() if dry_run else apply.exclusive(project, name):
        planned = apply.plan(project, name, lock, discard=discard)
        record = apply.document(project, name, release.patched_version(name), planned, series, lock)
        if not dry_run:
            if planned.make or planned.discard:
                source = ensure_source(project, name, wanted, reporter)
                with reporter.step(f"applying {len(series.names)} patches to {name}"):
                    apply.execute(project, name, wanted, planned, source, series, lock)
            previous = apply.current_tree(project, name)
            if read_state(project, name).get(apply.STAGE) != record:
                update_state(project, name, apply.STAGE, record)
            if planned.state == "applied":
                apply.remove_stale_trees(project, name, keep=(planned.folder, previous))
    for warning in warnings:
        reporter.say(f"warning: {warning}; invoke patch.export takes it over.")
    _say_plan(reporter, planned, record, dry_run)
    return {
        **record,
        "state": planned.state,
        "reasons": list(planned.reasons),
        "warnings": warnings,
        "dry_run": dry_run,
    }


def export(project: Project, reporter: Reporter, pin: str = "", dry_run: bool = False) -> Document:
    """Write series back from ``connector_src/`` and from the commits of their work trees.

    Args:
        project: The checkout.
        reporter: Says what is done.
        pin: A pin's name; empty means every pin that has a series, since all hold the same connector.
        dry_run: Say which files would change, and change nothing.

    Returns:
        The document of the named or default pin, with those of the other pins under ``others``.
    """
    release = load_release(project.release_file)
    name, wanted = release.pin(pin)
    document = _export_one(project, reporter, name, wanted, dry_run)
    others = [other for other in release.pins if other != name and (project.patches(other) / SERIES).exists()]
    if pin and others:
        reporter.say(f"    left as they are, since {name} was named: the series of {', '.join(others)}")
    return {
        **document,
        "others": [_export_one(project, reporter, other, release.pins[other], dry_run) for other in others if not pin],
    }


def _export_one(project: Project, reporter: Reporter, name: str, wanted: Pin, dry_run: bool) -> Document:
    from yrpd.patching import export as exporting

    folder = project.patches(name)
    if dry_run and say_fetch(project, {name: wanted}, reporter):
        reporter.say(f"{name}: what would change is known when its source is here: invoke patch --pin {name}")
        return {"pin": name, "state": "planned", "fetch": [name], "dry_run": True}
    series = load_series(folder) if (folder / SERIES).exists() else Series(folder, ())
    lock = load_lock(folder) if (folder / LOCK).exists() else None
    with failures(), apply.exclusive(project, name):
        source = ensure_source(project, name, wanted, reporter)
        with reporter.step(f"{'comparing' if dry_run else 'exporting'} the series of {name}"):
            export = exporting.prepare(project, name, wanted, source, series, lock)
            if not dry_run:
                exporting.write(export, folder)
    state = "exported" if export.changed or export.removed else "unchanged"
    for file in export.changed:
        reporter.say(f"    {'would write' if dry_run else 'wrote'} patches/{name}/{file}")
    for file in export.removed:
        reporter.say(f"    {'would remove' if dry_run else 'removed'} patches/{name}/{file}")
    reporter.say(f"{name}: series {export.lock.folder} {state}, tree {export.lock.end.tree[:12]}")
    return {
        "pin": name,
        "state": state,
        "changed": list(export.changed),
        "removed": list(export.removed),
        "patches": [entry.file for entry in export.lock.patches],
        "tree": export.lock.end.tree,
        "commit": export.lock.end.commit,
        "series_digest": export.lock.digest,
        "dry_run": dry_run,
    }


def check(project: Project, reporter: Reporter, pin: str = "", dry_run: bool = False) -> Document:
    """Prove that series, lock, connector sources and git agree. Needs no network once the pin was fetched.

    Args:
        project: The checkout.
        reporter: Gets the findings.
        pin: A pin's name; empty means the default one.
        dry_run: Say whether upstream's source would have to be fetched for it.

    Returns:
        ``{pin, passed, findings}`` when nothing was found.

    Raises:
        PinMismatchError: Something was found; its document has all findings.
    """
    from yrpd.patching import check as checking

    name, wanted = load_release(project.release_file).pin(pin)
    if dry_run:
        reporter.say(f"would check the series of {name}")
        return {"pin": name, "state": "planned", "fetch": say_fetch(project, {name: wanted}, reporter)}
    check_cached_sdist(project, wanted)
    with failures(), apply.exclusive(project, name), reporter.step(f"checking the series of {name}"):
        findings = checking.find(project, name, wanted, reporter)
    return _judge(name, findings, reporter)


def status(project: Project, reporter: Reporter, pin: str = "") -> Document:
    """Say how work tree, sources, series and pin stand to each other, and what to type next. Changes nothing.

    Args:
        project: The checkout.
        reporter: Says it.
        pin: A pin's name; empty means the default one.

    Returns:
        ``{pin, clean, patch, check, export, next}``: what a dry run of ``patch`` and of ``patch.export`` and what
        ``patch.check`` tell, or ``{error, next}``; and the first next command, empty when nothing is to be done.
    """
    name, wanted = load_release(project.release_file).pin(pin)
    missing = bool(say_fetch(project, {name: wanted}, reporter))
    looks: dict[str, Callable[[], Document]] = {
        "patch": lambda: patch(project, reporter, name, dry_run=True),
        "check": lambda: check(project, reporter, name, dry_run=missing),
        "export": lambda: export(project, reporter, name, dry_run=True),
    }
    document: Document = {"pin": name}
    following = []
    for look, ask in looks.items():
        try:
            document[look] = ask()
        except YrpdError as error:
            document[look] = error.document or {"error": error.message, "next": error.next_command}
            reporter.say(f"    {error.message}")
            following.append(error.next_command)
    if document["patch"].get("state", "unchanged") != "unchanged":
        following.append(f"invoke patch --pin {name}")
    if document["export"].get("state") == "exported":
        following.insert(0, f"invoke patch.export --pin {name}")
    reporter.say(f"next:  {following[0]}" if following else f"{name}: nothing to do")
    return {**document, "clean": not following, "next": following[0] if following else ""}


def _judge(name: str, findings: list[linting.Finding], reporter: Reporter) -> Document:
    document = {"pin": name, "passed": not findings, "findings": [finding.document() for finding in findings]}
    if not findings:
        reporter.say(f"{name}: the series is what it should be")
        return document
    for finding in findings:  # lines, not a table: ids stay whole, and editors jump to file:line
        reporter.say(f"{finding.where}: {finding.id}: {finding.message}")
    first = findings[0]
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    message = f"The series of {name} is not what it should be: {count}, the first in {first.where} ({first.id})."
    raise PinMismatchError(message, next_command=first.next_command, document=document)


def _say_plan(reporter: Reporter, planned: apply.Plan, record: Document, dry_run: bool) -> None:
    verb = planned.state if not dry_run else f"would be {planned.state}"
    reporter.say(f"{record['pin']}: {verb}, tree {record['tree'][:12]} in {record['worktree']}")
    for reason in planned.reasons:
        reporter.say(f"    {reason}")


@contextmanager
def failures() -> Iterator[None]:
    """Give git's and the disk's own failures an exit code and a sentence."""
    try:
        yield
    except GitError as error:
        raise apply.git_failure(error) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        message = f"{error.filename or 'A file'} cannot be written: {error.strerror}; nothing was half applied."
        raise EnvironmentFailure(message, next_command="df -h .") from error
