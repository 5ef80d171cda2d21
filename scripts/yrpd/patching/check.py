"""What ``patch.check`` proves. Every check runs; every finding has its file, and its line where there is one.

Two stages: what the files say about each other needs nothing else; what git makes of them needs the pin's source.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
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


def find(project: Project, name: str, pin: Pin, reporter: Reporter) -> list[Finding]:
    """Run all checks and return what they found, in the order of the series."""
    series, lock, findings = lint.find(project, name, pin)
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
    findings: list[Finding] = []
    failure: PatchConflictError | None = None
    try:
        worktree.apply(repository, [series.path(file) for file in series.names])
    except PatchConflictError as error:
        failure = error
    commits = repository.commits(worktree.BASE, "HEAD")
    if failure is not None:
        stopped = series.names[min(len(commits), len(series.names) - 1)]
        findings.append(
            Finding("apply", shown(project, series.path(stopped)), 0, failure.message.rstrip("."), "git diff patches")
        )
    findings += _drift_findings(project, series, repository, commits, source)
    if failure is None and lock is not None:
        where = shown(project, series.folder / LOCK)
        differences = apply.differences(commits, source, lock)
        findings += [Finding(kind, where, 0, told, "git diff patches") for kind, told in differences]
    findings += _round_trip(project, series, repository)
    return findings


def _drift_findings(
    project: Project, series: Series, repository: Repository, commits: Sequence[Commit], source: Source
) -> Iterator[Finding]:
    drifts = connector_drift(project, series)
    added = repository.blob_ids(commits[0].id) if commits else {}
    for file, told in drifts:
        blob, line = added.get(file.replace("connector_src/yuanrong", generate.DESTINATION)), 0
        if blob and (project.root / file).is_file():
            line = mail.first_difference(repository.cat_file(blob), (project.root / file).read_bytes())
        yield Finding("drift", file, line, told)
    generated = generate.generated_name(project)
    if not drifts:
        fresh, present = generate.generate(repository, source.base, project), series.read(generated)
        if fresh != present:
            line = mail.first_difference(fresh, present)
            told = "not what patch.export generates from connector_src and patches/connector-message.txt"
            yield Finding("generated", shown(project, series.path(generated)), line, told)


def _round_trip(project: Project, series: Series, repository: Repository) -> Iterator[Finding]:
    exported = repository.format_patch(worktree.BASE)
    for file, content in zip(series.names, exported, strict=False):
        line = mail.first_difference(series.read(file), content)
        if line:
            told = "apply, then export, gives other bytes: the patch was edited by hand, or is another pin's"
            yield Finding("round-trip", shown(project, series.path(file)), line, told)
