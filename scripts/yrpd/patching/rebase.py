"""Carrying a series to another upstream state: ``git rebase --onto`` in a work tree of its own.

All of it happens in ``build/rebase/<from>-<to>/tree``; ``patches/<to>`` appears at the end, in one step, and nothing
else is touched. How far it is, what conflicts and what was resolved is git's state in that tree, so that what git
offers for a rebase that stopped may be used there, too. Beside it the tree has the lock of the old series
(``.git/yrpd``) and these refs:

``refs/yrpd/base``     the commit under the new series
``refs/yrpd/end``      the generated patch on it, which the other patches go on
``refs/yrpd/before``   the end of the old series
``refs/yrpd/between``  the old series up to its generated patch: what comes after it is carried
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yrpd.documents.series import Lock, Series
from yrpd.errors import PatchConflictError
from yrpd.git import mail
from yrpd.git.repository import GitError, Repository
from yrpd.patching import apply, export, generate, worktree
from yrpd.patching.source import BASE_REF, Source
from yrpd.project import Project
from yrpd.release import Pin

BEFORE = "refs/yrpd/before"
BETWEEN = "refs/yrpd/between"
STOPPED = "REBASE_HEAD"  # git's: the commit that conflicts
PENDING, CARRIED, RESOLVED, DROPPED = "pending", "carried", "resolved", "dropped"


@dataclass(frozen=True)
class Rebase:
    """A rebase under way.

    Attributes:
        folder: ``build/rebase/<from>-<to>``.
        lock: The old series' lock; the rebase is void when that changes.
    """

    folder: Path
    lock: Lock

    @property
    def origin(self) -> str:
        """Name of the pin that the series comes from."""
        return self.lock.pin.name

    @property
    def target(self) -> str:
        """Name of the upstream state that it goes to."""
        return self.folder.name.removeprefix(f"{self.origin}-")

    @property
    def tree(self) -> Repository:
        """The work tree in which it happens."""
        return Repository(self.folder / "tree")

    @property
    def old(self) -> dict[str, tuple[str, str]]:
        """Commit on the old base to (patch file, subject), of the patches that are carried, in order."""
        commits = self.tree.commits(BETWEEN, BEFORE)
        files = [entry.file for entry in self.lock.patches][len(self.lock.patches) - len(commits) :]
        return {commit.id: (file, commit.subject) for file, commit in zip(files, commits, strict=True)}

    @property
    def stopped_at(self) -> str:
        """The patch file at which git stopped; empty when it did not."""
        commit = self.tree.find(STOPPED) if _git_state(self.tree).exists() else ""
        return self.old[commit][0] if commit in self.old else ""


def place(project: Project) -> Path:
    """Return the folder of all rebases."""
    return project.build / "rebase"


def under_way(project: Project, target: str) -> Rebase | None:
    """Return the rebase to an upstream state that was begun and neither finished nor given up."""
    found = [(folder, worktree.origin(folder / "tree")) for folder in sorted(place(project).glob("*"))]
    begun = [Rebase(folder, lock) for folder, lock in found if lock is not None]
    return next((rebase for rebase in begun if rebase.target == target), None)


@contextmanager
def prepared(
    project: Project, series: Series, lock: Lock, source: Source, target: str, onto: Source
) -> Iterator[Rebase]:
    """Set a rebase up in a scratch folder, which goes with the caller's block unless that moves it.

    Yields:
        The old series on the old base, checked out, and beside it the new base with the generated patch on it.

    Raises:
        PatchConflictError: The old series does not even apply to its own pin.
        PinMismatchError: It ends at another tree or commit than its lock says.
    """
    with tempfile.TemporaryDirectory(dir=project.pin_build(target), prefix=apply.LEFTOVER) as scratch:
        folder = Path(scratch) / f"{lock.pin.name}-{target}"
        tree = worktree.start(folder / "tree", source)
        commits = worktree.apply(tree, [series.path(file) for file in series.names])
        apply.require_result(commits, source, lock)
        worktree.finish(tree, lock, ())
        has_generated = series.names[:1] == (generate.generated_name(project),)
        tree.update_ref(BEFORE, "HEAD")
        tree.update_ref(BETWEEN, commits[0].id if has_generated else worktree.BASE)
        tree.fetch(str(onto.repository.folder), f"+{BASE_REF}:{worktree.BASE}")
        tree.update_ref(worktree.END, generate.commit(tree, onto.base, project))
        yield Rebase(folder, lock)


def begin(project: Project, prepared_one: Rebase) -> Rebase:
    """Put a rebase that was set up where the next ``patch.rebase`` finds it."""
    folder = place(project) / prepared_one.folder.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    prepared_one.folder.rename(folder)
    return Rebase(folder, prepared_one.lock)


def carry(rebase: Rebase, how: str = "--continue") -> list[str]:
    """Let git carry patches until all are through, or one conflicts. Whenever this is interrupted, it can be repeated.

    Args:
        rebase: The rebase.
        how: What git is told to do with a patch at which it stopped.

    Returns:
        The files in conflict.

    Raises:
        GitError: Git failed for another reason than a conflict.
    """
    tree = rebase.tree
    try:
        if _git_state(tree).exists() and tree.find(STOPPED):
            tree.run("rebase", how)
        elif not carried_all(rebase):
            onto, after = _next(tree)
            tree.run("rebase", "--quiet", "--empty=drop", "--onto", onto, after, worktree.BRANCH)
    except GitError:
        found = conflicts(rebase)
        if not found:
            raise
        return found
    return []


def carried_all(rebase: Rebase) -> bool:
    """Tell whether every patch is through: only then git moves the branch to the new base."""
    return rebase.tree.is_ancestor(worktree.BASE, worktree.BRANCH)


def _next(tree: Repository) -> tuple[str, str]:
    """Return what goes on with a rebase that was not begun, was given up with git, or was killed: (onto, after).

    A killed one has its finished commits under HEAD. The patch that git was at comes again; when it had been committed
    already, it changes nothing now and git drops it.
    """
    done = _git_state(tree) / "done"
    lines = done.read_text(encoding="utf-8").splitlines() if done.exists() else []
    picks = [line.split()[1] for line in lines if line.startswith("pick ")]
    if _git_state(tree).exists():
        tree.run("rebase", "--quit")
    tree.run("reset", "--quiet", "--hard")
    return ("HEAD", f"{picks[-1]}^") if picks else (worktree.END, BETWEEN)


def conflicts(rebase: Rebase) -> list[str]:
    """Return the files in conflict."""
    found = rebase.tree.run("diff", "--name-only", "--diff-filter=U", "-z")
    return sorted({os.fsdecode(path) for path in found.split(b"\0") if path})


def require_ready(rebase: Rebase) -> None:
    """Check that somebody decided about a conflict, and left nothing undecided.

    Raises:
        PatchConflictError: Files are still in conflict, not staged, or hold markers.
    """
    tree = rebase.tree
    shown = f"{rebase.folder.parent.parent.name}/{rebase.folder.parent.name}/{rebase.folder.name}/tree"
    add = f"git -C {shown} add -A && invoke patch.rebase --to {rebase.target}"
    still = ", ".join(conflicts(rebase))
    if still:
        raise PatchConflictError(f"Still in conflict: {still}.", next_command=f"resolve them, then {add}")
    markers = _staged_markers(tree)
    if markers:
        message = f"Conflict markers were staged: {', '.join(markers)}."
        raise PatchConflictError(message, next_command=f"resolve them, then {add}")
    stopped = bool(rebase.stopped_at)
    left = [path for code, path in tree.status_codes() if code[1] != " " or not stopped]
    if left and (stopped or not _git_state(tree).exists()):  # else git was killed at work, and the edits are its own
        raise PatchConflictError(f"Changed and not committed: {', '.join(left[:5])}.", next_command=add)


def take_over(rebase: Rebase) -> None:
    """Commit what was staged about a conflict with the patch's own message, author and date."""
    if rebase.stopped_at and rebase.tree.status():
        keep = ("--quiet", "--no-verify", "--no-gpg-sign", "--cleanup=verbatim", f"--reuse-message={STOPPED}")
        rebase.tree.run("commit", *keep)


def outcomes(rebase: Rebase) -> dict[str, str]:
    """Return patch file to ``pending``, ``carried``, ``resolved`` or ``dropped``, in order.

    A patch that got another subject is dropped, and one with the new subject's file name is resolved.
    """
    tree, old = rebase.tree, rebase.old
    stopped = tree.find(STOPPED) if rebase.stopped_at else ""
    through = list(old)[: list(old).index(stopped)] if stopped else list(old) if carried_all(rebase) else []
    new = {commit.subject: commit.id for commit in tree.commits(worktree.END, "HEAD")} if through or stopped else {}
    history = tree.line("log", "--walk-reflogs", "--format=%H %gs", "HEAD").splitlines()
    picked = {line.split()[0] for line in history if " rebase (pick): " in line}
    found = {file: PENDING for file, _ in old.values()}
    for file, subject in (old[commit] for commit in through):
        found[file] = (CARRIED if new[subject] in picked else RESOLVED) if subject in new else DROPPED
    reworded = new.keys() - {subject for _, subject in old.values()}
    return {**found, **{mail.file_name(subject): RESOLVED for subject in new if subject in reworded}}


def try_out(rebase: Rebase) -> list[dict[str, Any]]:
    """Carry all patches, leave out those that conflict, and say of each how it fits."""
    clashes: dict[str, list[str]] = {}
    found = carry(rebase)
    while found:
        clashes[rebase.stopped_at] = found
        found = carry(rebase, "--skip")
    fits = {CARRIED: "clean", DROPPED: "contained"}
    return [
        {"file": file, "fit": "conflict" if file in clashes else fits[outcome], "conflicts": clashes.get(file, [])}
        for file, outcome in outcomes(rebase).items()
    ]


def finish(project: Project, rebase: Rebase, series: Series, onto: Source, pin: Pin) -> Lock:
    """Write the new series, which appears whole, and remove the rebase; return the new lock."""
    made = export.of_tree(project, rebase.target, pin, onto, series, rebase.tree)
    folder = project.patches(rebase.target)
    staging = folder.with_name(f".{folder.name}.incoming")
    shutil.rmtree(staging, ignore_errors=True)
    export.write(made, staging)
    staging.rename(folder)
    remove(project, rebase)
    return made.lock


def remove(project: Project, rebase: Rebase) -> None:
    """Remove a rebase's folder, and the one around it when it was the last."""
    shutil.rmtree(rebase.folder)
    if not any(place(project).iterdir()):
        place(project).rmdir()


def _git_state(tree: Repository) -> Path:
    return tree.folder / ".git" / "rebase-merge"


def _staged_markers(tree: Repository) -> list[str]:
    """Return ``path:line`` of conflict markers that were staged."""
    try:
        tree.run("diff", "--cached", "--check", "HEAD")
    except GitError as error:
        ending = ": leftover conflict marker"
        lines = os.fsdecode(error.stdout).splitlines()
        return [line.removesuffix(".").removesuffix(ending) for line in lines if line.rstrip(".").endswith(ending)]
    return []
