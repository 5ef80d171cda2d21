"""What ``patch.check`` proves. Every check runs; every finding has its file, and its line where there is one.

Two stages: what the files say about each other needs nothing else; what git makes of them needs the pin's source.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from yrpd.documents.series import LOCK, Lock, Series
from yrpd.errors import PatchConflictError, YrpdError
from yrpd.git import mail
from yrpd.git.repository import Commit, GitError, Repository
from yrpd.patching import apply, generate, lint, worktree
from yrpd.patching.lint import Finding, connector_drift, shown
from yrpd.patching.source import Source, ensure_source, tagged
from yrpd.project import Project
from yrpd.release import Pin
from yrpd.reporting import Reporter
from yrpd.toml_lines import line_of

_ZEROS = "0" * 40
CHECKS = (
    "series and folder hold the same files, each once",
    "every patch has the sha256 that the lock names",
    "the lock belongs to the pin of release.toml",
    "every message says Why, Upstream and Removal, and survives git am",
    "no patch adds whitespace errors",
    "every file fits: declared pre-image and post-image are git's",
    "connector_src is what the generated patch adds",
    "trees and commits are those of the lock",
    "upstream's tag still names the pin's commit, where upstream can be reached",
    "apply, then export, gives the same bytes",
)


def find(project: Project, name: str, pin: Pin, reporter: Reporter) -> list[Finding]:
    """Run all checks and return what they found, in the order of the series."""
    files = lint.find(project, name, pin)
    series, lock, findings = files.series, files.lock, list(files.findings)
    if series is None:
        return findings
    try:
        source = ensure_source(project, name, pin, reporter)
    except YrpdError as error:
        if not findings:
            raise
        return [*findings, Finding("source", "release.toml", 0, error.message.rstrip("."), error.next_command)]
    findings += _tag_findings(project, name, pin, source)
    with tempfile.TemporaryDirectory(dir=project.pin_build(name), prefix=apply.LEFTOVER) as scratch:
        findings += _git_findings(project, series, lock, source, Path(scratch))
    return findings


def _tag_findings(project: Project, name: str, pin: Pin, source: Source) -> Iterator[Finding]:
    try:
        found = tagged(source.repository, pin)
    except GitError:
        return  # offline is a normal state: the tree was proved when it was fetched
    if pin.commit and found != pin.commit:
        text = project.release_file.read_text(encoding="utf-8")
        line = line_of(text, ("pins", name, "tag")) or line_of(text, ("known", name, "tag")) or 0
        told = f"upstream's tag {pin.tag} was moved: expected {pin.state}, found {found or 'no such tag'}"
        yield Finding("tag", project.release_file.name, line, told, "git diff release.toml")


def _git_findings(project: Project, series: Series, lock: Lock | None, source: Source, scratch: Path) -> list[Finding]:
    repository = worktree.start(scratch / "tree", source)
    findings = [finding for file in series.names for finding in _whitespace(project, repository, series, file)]
    failure: PatchConflictError | None = None
    try:
        worktree.apply(repository, [series.path(file) for file in series.names])
    except PatchConflictError as error:
        failure = error
    commits = repository.commits(worktree.BASE, "HEAD")
    blobs = lru_cache(maxsize=2)(repository.blob_ids)  # what is after one patch is before the next
    for file, before, after in _steps(series, commits, source.base):
        findings += _image_findings(project, series, file, blobs(before), blobs(after) if after else None)
    if failure is not None:
        stopped = series.names[min(len(commits), len(series.names) - 1)]
        findings.append(
            Finding("apply", shown(project, series.path(stopped)), 0, failure.message.rstrip("."), "git diff patches")
        )
    findings += _drift_findings(project, series, repository, commits, source)
    if failure is None:
        findings += _result_findings(project, series, lock, source, commits)
        findings += _round_trip(project, series, repository)
    return findings


def _steps(series: Series, commits: Sequence[Commit], base: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield (patch, commit before, commit after) for what was applied, and the one it stopped at with no after."""
    ids: list[str | None] = [base, *(commit.id for commit in commits), None]
    for number, file in enumerate(series.names[: len(commits) + 1]):
        before = ids[number]
        if before is not None:
            yield file, before, ids[number + 1]


def _image_findings(
    project: Project, series: Series, file: str, old: Mapping[str, str], new: Mapping[str, str] | None
) -> Iterator[Finding]:
    where = shown(project, series.path(file))
    for change in mail.parse_changes(series.read(file)):
        actual = old.get(change.path, _ZEROS)
        if change.old != actual:
            told = f"{change.path} before the patch: declared blob {change.old}, found {actual}"
            yield Finding("pre-image", where, change.line, told, "git diff patches release.toml")
        if new is not None and change.new != new.get(change.path, _ZEROS):
            told = f"{change.path} after the patch: declared blob {change.new}, found {new.get(change.path, _ZEROS)}; "
            told += "the patch was edited by hand"
            yield Finding("post-image", where, change.line, told, f"git checkout -- {where}")


def _whitespace(project: Project, repository: Repository, series: Series, file: str) -> Iterator[Finding]:
    for line, what in repository.added_whitespace_errors(series.path(file)):
        yield Finding("whitespace", shown(project, series.path(file)), line, what)


def _drift_findings(
    project: Project, series: Series, repository: Repository, commits: Sequence[Commit], source: Source
) -> Iterator[Finding]:
    drifts = connector_drift(project, series)
    added = repository.blob_ids(commits[0].id) if commits else {}
    for drift in drifts:
        path = project.root / drift.file
        line = 0
        if drift.path in added and path.is_file():
            line = mail.first_difference(repository.cat_file(added[drift.path]), path.read_bytes())
        yield Finding("drift", drift.file, line, drift.sentence)
    generated = generate.generated_name(project)
    if not drifts:
        fresh, present = generate.generate(repository, source.base, project), series.read(generated)
        if fresh != present:
            line = mail.first_difference(fresh, present)
            told = "not what patch.export generates from connector_src and patches/connector-message.txt"
            yield Finding("generated", shown(project, series.path(generated)), line, told)


def _result_findings(
    project: Project, series: Series, lock: Lock | None, source: Source, commits: Sequence[Commit]
) -> Iterator[Finding]:
    if lock is None:
        return
    where = shown(project, series.folder / LOCK)
    trees = {file: commit.tree for file, commit in zip(series.names, commits, strict=False)}
    for entry in lock.patches:
        if entry.file in trees and trees[entry.file] != entry.tree:
            told = f"the tree after {entry.file}: expected {entry.tree}, found {trees[entry.file]}"
            yield Finding("tree", where, 0, told, "git diff patches")
    end = commits[-1] if commits else Commit(source.base, source.tree, (), "")
    pairs = (
        ("base", "the base commit", lock.base.commit, source.base),
        ("tree", "the tree at the end", lock.end.tree, end.tree),
        ("commit", "the commit at the end", lock.end.commit, end.id),
    )
    for kind, what, expected, found in pairs:
        if expected != found:
            yield Finding(kind, where, 0, f"{what}: expected {expected}, found {found}", "git diff patches")


def _round_trip(project: Project, series: Series, repository: Repository) -> Iterator[Finding]:
    exported = repository.format_patch(worktree.BASE)
    for file, content in zip(series.names, exported, strict=False):
        line = mail.first_difference(series.read(file), content)
        if line:
            told = "apply, then export, gives other bytes: the patch was not written by patch.export"
            yield Finding("round-trip", shown(project, series.path(file)), line, told)
