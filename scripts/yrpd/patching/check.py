"""What ``patch.check`` proves. Every check runs; every finding has its file, and its line where there is one.

Two stages: what the files say about each other needs nothing else; what git makes of them needs the pin's source.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yrpd.errors import ConfigurationError, PatchConflictError, YrpdError
from yrpd.patching import apply, generate, mail, worktree
from yrpd.patching.git import Commit, GitError, Repository
from yrpd.patching.series import LOCK, SERIES, Lock, Series, load_lock, parse_series
from yrpd.patching.source import Source, ensure_source
from yrpd.project import Project
from yrpd.release import Pin
from yrpd.reporting import Reporter

TRAILERS = ("Why", "Upstream", "Removal")
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
    "apply, then export, gives the same bytes",
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        id: Stable name of the kind of finding.
        file: Path from the project's root.
        line: Line in that file, from 1; 0 when it is about the whole file.
        message: One clause.
        next_command: What to type next.
    """

    id: str
    file: str
    line: int
    message: str
    next_command: str = "invoke patch.export"

    @property
    def where(self) -> str:
        """File and line, as editors take it."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def document(self) -> dict[str, Any]:
        """Return the finding for ``--json``."""
        return {"id": self.id, "file": self.file, "line": self.line, "message": self.message, "next": self.next_command}


@dataclass(frozen=True)
class Drift:
    """A difference between ``connector_src`` and the generated patch.

    Attributes:
        file: The file under ``connector_src``, from the project's root.
        path: The file in the patched tree.
        sentence: What differs.
    """

    file: str
    path: str
    sentence: str


def find(project: Project, name: str, pin: Pin, reporter: Reporter) -> list[Finding]:
    """Run all checks and return what they found, in the order of the series."""
    folder = project.patches(name)
    series, findings = _listing(project, folder)
    if series is None:
        return findings
    try:
        lock = load_lock(folder)
    except ConfigurationError as error:
        lock = None
        findings.append(
            Finding("lock", _shown(project, folder / LOCK), 0, error.message.rstrip("."), error.next_command)
        )
    if lock is not None:
        findings += _lock_findings(project, series, lock, name, pin)
    for file in series.names:
        findings += _message_findings(project, series, file)
    try:
        source = ensure_source(project, name, pin, reporter)
    except YrpdError as error:
        if not findings:
            raise
        return [*findings, Finding("source", "release.toml", 0, error.message.rstrip("."), error.next_command)]
    with tempfile.TemporaryDirectory(dir=project.pin_build(name), prefix=apply.LEFTOVER) as scratch:
        findings += _git_findings(project, series, lock, source, Path(scratch))
    return findings


def connector_drift(project: Project, series: Series) -> list[Drift]:
    """Return how ``connector_src`` differs from what the generated patch adds, by blob ids alone."""
    generated = generate.generated_name(project)
    if generated not in series.names:
        return [Drift(f"patches/{series.folder.name}/{SERIES}", "", f"the series does not list {generated}")]
    declared = {change.path: change.new for change in mail.parse_changes(series.read(generated))}
    actual = {file.path: file for file in generate.connector_files(project.connector_source)}
    found = []
    for path in sorted(declared.keys() | actual.keys()):
        relative = path.removeprefix(f"{generate.DESTINATION}/")
        file = f"connector_src/yuanrong/{relative}"
        if path not in actual:
            found.append(Drift(file, path, f"{file} is gone, and {generated} still adds it"))
        elif path not in declared:
            found.append(Drift(file, path, f"{file} is new, and {generated} does not add it"))
        elif actual[path].blob != declared[path]:
            found.append(Drift(file, path, f"{file} changed since {generated} was generated"))
    return found


# --- what the files say about each other ------------------------------------------------------------------------------


def _listing(project: Project, folder: Path) -> tuple[Series | None, list[Finding]]:
    where = _shown(project, folder / SERIES)
    restore = f"git checkout -- {_shown(project, folder)}"
    if not (folder / SERIES).is_file():
        return None, [Finding("series", where, 0, "the file does not exist", "invoke patch.export")]
    text = (folder / SERIES).read_text(encoding="utf-8", errors="replace")
    names, comments = parse_series(text)
    lines = {line.strip(): number for number, line in enumerate(text.splitlines(), start=1)}
    findings = []
    for name, count in Counter(names).items():
        if count > 1:
            findings.append(Finding("listed-twice", where, lines[name], f"{name} is listed {count} times", restore))
    usable = []
    for name in dict.fromkeys(names):
        if Path(name).name != name or not name.endswith(".patch"):
            findings.append(Finding("series", where, lines[name], f"{name!r} is no patch of this folder", restore))
        elif not (folder / name).is_file():
            findings.append(Finding("missing", where, lines[name], f"{name} is listed and not there", restore))
        else:
            usable.append(name)
    for path in sorted(folder.iterdir()):
        if path.name not in (SERIES, LOCK, *names) and not path.name.startswith("."):
            told = "a file that the series does not list"
            findings.append(Finding("unlisted", _shown(project, path), 0, told, f"rm {_shown(project, path)}"))
    return Series(folder, tuple(usable), comments), findings


def _lock_findings(project: Project, series: Series, lock: Lock, name: str, pin: Pin) -> Iterator[Finding]:
    where = _shown(project, series.folder / LOCK)
    pairs = (("name", lock.pin.name, name), ("commit", lock.pin.commit, pin.commit), ("tree", lock.pin.tree, pin.tree))
    for what, expected, found in pairs:
        if expected != found:
            told = f"the pin's {what}: the lock has {expected}, release.toml has {found}"
            yield Finding("pin", where, 0, told, "git diff release.toml patches")
    locked = {entry.file: entry.sha256 for entry in lock.patches}
    if [file for file in locked if file in series.names] != [file for file in series.names if file in locked]:
        order = f"expected order {', '.join(locked)}; found {', '.join(series.names)}"
        yield Finding("order", _shown(project, series.folder / SERIES), 0, order, f"git diff {where}")
    for file in series.names:
        content = series.read(file)
        found = hashlib.sha256(content).hexdigest()
        if file not in locked:
            yield Finding("unlocked", _shown(project, series.path(file)), 0, f"the lock does not have {file}")
        elif locked[file] != found:
            line = _changed_line(project, series, lock, file, content)
            told = f"expected sha256 {locked[file]}, found {found}"
            path = _shown(project, series.path(file))
            yield Finding("sha256", path, line, told, f"git checkout -- {path}")
    for file in locked.keys() - set(series.names):
        yield Finding("unlisted", where, 0, f"the lock has {file}, the series does not", f"git diff {where}")


def _changed_line(project: Project, series: Series, lock: Lock, file: str, content: bytes) -> int:
    """Return the first line that differs from the locked bytes, when they are still to be had somewhere."""
    wanted = next(entry.sha256 for entry in lock.patches if entry.file == file)
    for original in _originals(project, series, file):
        if hashlib.sha256(original).hexdigest() == wanted:
            return mail.first_difference(original, content)
    return 0


def _originals(project: Project, series: Series, file: str) -> Iterator[bytes]:
    for kept in apply.trees(project, series.folder.name).glob(f"*/.git/yrpd/{file}"):
        yield kept.read_bytes()
    try:
        yield Repository(project.root).run("cat-file", "blob", f"HEAD:{_shown(project, series.path(file))}")
    except GitError:
        return


def _message_findings(project: Project, series: Series, file: str) -> Iterator[Finding]:
    where = _shown(project, series.path(file))
    content = series.read(file)
    if mail.count_mails(content) != 1:
        yield Finding("format", where, 1, f"expected one patch in the file, found {mail.count_mails(content)}")
        return
    message = mail.parse_message(content)
    missing = [key for key in TRAILERS if not message.trailers.get(key)]
    amend = "git commit --amend   (in the work tree, then invoke patch.export)"
    if missing:
        told = f"the message lacks {', '.join(f'{key}:' for key in missing)}"
        yield Finding("trailers", where, message.body_line, told, amend)
    for offset, line in mail.message_cuts(message.body):
        told = f"git am would drop the message from the line {line!r} on"
        yield Finding("message-cut", where, message.body_line + offset, told, amend)
    if not mail.parse_changes(content):
        yield Finding("empty", where, 0, "the patch changes nothing", amend)


# --- what git makes of them -------------------------------------------------------------------------------------------


def _git_findings(project: Project, series: Series, lock: Lock | None, source: Source, scratch: Path) -> list[Finding]:
    repository = worktree.start(scratch / "tree", source)
    findings = [finding for file in series.names for finding in _whitespace(project, repository, series, file)]
    failure: PatchConflictError | None = None
    try:
        worktree.apply(repository, [series.path(file) for file in series.names])
    except PatchConflictError as error:
        failure = error
    commits = repository.commits(worktree.BASE, "HEAD")
    for file, before, after in _steps(series, commits, source.base):
        findings += _image_findings(project, repository, series, file, before, after)
    if failure is not None:
        stopped = series.names[min(len(commits), len(series.names) - 1)]
        findings.append(
            Finding("apply", _shown(project, series.path(stopped)), 0, failure.message.rstrip("."), "git diff patches")
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
    project: Project, repository: Repository, series: Series, file: str, before: str, after: str | None
) -> Iterator[Finding]:
    old, new = repository.blob_ids(before), repository.blob_ids(after) if after else {}
    where = _shown(project, series.path(file))
    for change in mail.parse_changes(series.read(file)):
        actual = old.get(change.path, _ZEROS)
        if change.old != actual:
            told = f"{change.path} before the patch: declared blob {change.old}, found {actual}"
            yield Finding("pre-image", where, change.line, told, "git diff patches release.toml")
        if after and change.new != new.get(change.path, _ZEROS):
            told = f"{change.path} after the patch: declared blob {change.new}, found {new.get(change.path, _ZEROS)}; "
            told += "the patch was edited by hand"
            yield Finding("post-image", where, change.line, told, f"git checkout -- {where}")


def _whitespace(project: Project, repository: Repository, series: Series, file: str) -> Iterator[Finding]:
    for line, what in repository.added_whitespace_errors(series.path(file)):
        yield Finding("whitespace", _shown(project, series.path(file)), line, what)


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
            yield Finding("generated", _shown(project, series.path(generated)), line, told)


def _result_findings(
    project: Project, series: Series, lock: Lock | None, source: Source, commits: Sequence[Commit]
) -> Iterator[Finding]:
    if lock is None:
        return
    where = _shown(project, series.folder / LOCK)
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
            yield Finding("round-trip", _shown(project, series.path(file)), line, told)


def _shown(project: Project, path: Path) -> str:
    return path.relative_to(project.root).as_posix()
