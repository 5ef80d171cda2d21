"""Carrying a series to another upstream state, with stops where somebody has to decide.

All of it happens in ``build/rebase/<from>-<to>``; ``patches/<to>`` appears at the end, in one step, and nothing else
is touched. ``tree/`` there is a work tree on the new base, to which the patches are carried one by one as three-way
merges; ``state.json`` says how far that is. The old base and the old series are in the same repository (branch
``before``), because a three-way merge needs what the patches were made on.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from yrpd.documents.series import Lock, Series
from yrpd.errors import ConfigurationError, PatchConflictError, PinMismatchError
from yrpd.git.repository import GitError, Repository
from yrpd.patching import conflicts, export, generate, merging, worktree
from yrpd.patching.conflicts import Conflict
from yrpd.patching.source import BASE_REF, Source
from yrpd.project import Project, write_json
from yrpd.release import Pin

BEFORE = "before"
BEFORE_BASE = "refs/yrpd/before-base"
_STATE = "state.json"
_INCOMING = ".incoming-"
PENDING, CARRIED, RESOLVED, DROPPED = "pending", "carried", "resolved", "dropped"


@dataclass(frozen=True)
class Step:
    """One patch on its way.

    Attributes:
        file: Its file name in the old series.
        commit: Its commit on the old base.
        outcome: ``pending``, ``carried``, ``resolved`` or ``dropped`` (the new upstream has it already).
    """

    file: str
    commit: str
    outcome: str = PENDING


@dataclass(frozen=True)
class Rebase:
    """A rebase under way.

    Attributes:
        folder: ``build/rebase/<from>-<to>``.
        origin: Name of the pin that the series comes from.
        target: Name of the upstream state that it goes to.
        lock: Digest of the old series' lock; the rebase is void when that changes.
        head: The commit up to which ``steps`` is right.
        steps: The patches after the generated one, in order.
    """

    folder: Path
    origin: str
    target: str
    lock: str
    head: str
    steps: tuple[Step, ...] = field(default=())

    @property
    def tree(self) -> Repository:
        """The work tree in which it happens."""
        return Repository(self.folder / "tree")

    @property
    def pending(self) -> int | None:
        """Position of the patch whose turn it is; ``None`` when all are through."""
        return next((n for n, step in enumerate(self.steps) if step.outcome == PENDING), None)

    def after(self, number: int, outcome: str) -> Rebase:
        """Return and record the rebase with one more patch through."""
        steps = (*self.steps[:number], replace(self.steps[number], outcome=outcome), *self.steps[number + 1 :])
        moved = replace(self, steps=steps, head=self.tree.rev_parse("HEAD"))
        moved.save()
        return moved

    def save(self) -> None:
        """Write the state file."""
        fields: dict[str, Any] = asdict(self)
        del fields["folder"]
        write_json(self.folder / _STATE, fields)


def place(project: Project) -> Path:
    """Return the folder of all rebases."""
    return project.build / "rebase"


def under_way(project: Project) -> list[Rebase]:
    """Return the rebases that were begun and neither finished nor given up."""
    found = []
    for path in sorted(place(project).glob(f"*/{_STATE}")):
        if not path.parent.name.startswith(_INCOMING):
            fields = json.loads(path.read_text(encoding="utf-8"))
            steps = tuple(Step(**step) for step in fields.pop("steps"))
            found.append(Rebase(folder=path.parent, steps=steps, **fields))
    return found


def one_under_way(project: Project, to: str) -> Rebase:
    """Return the rebase that is meant.

    Raises:
        ConfigurationError: There is none, or more than one and ``to`` does not say which.
    """
    found = [rebase for rebase in under_way(project) if to in ("", rebase.target)]
    if not found:
        raise ConfigurationError(
            f"No rebase{f' to {to}' if to else ''} is under way.", next_command="invoke patch.rebase --to TAG"
        )
    if len(found) > 1:
        names = ", ".join(rebase.target for rebase in found)
        raise ConfigurationError(
            f"Several rebases are under way: to {names}.", next_command=f"invoke patch.continue --to {found[0].target}"
        )
    return found[0]


def begin(project: Project, series: Series, lock: Lock, source: Source, target: str, onto: Source) -> Rebase:
    """Set a rebase up: the old series on the old base, and the new base with the generated patch on it.

    Raises:
        PatchConflictError: The old series does not even apply to its own pin.
    """
    folder = place(project) / f"{lock.pin.name}-{target}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{_INCOMING}{folder.name}-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as scratch:
        made = Path(scratch) / "made"
        tree = worktree.start(made / "tree", onto)
        steps = _old_commits(tree, series, lock, source, generate.generated_name(project))
        tree.checkout(worktree.BRANCH, worktree.BASE)
        first = made / "generated.patch"
        first.write_bytes(generate.generate(tree, onto.base, project))
        tree.am([first])
        first.unlink()
        tree.update_ref(worktree.END, "HEAD")
        Rebase(made, lock.pin.name, target, lock.digest, tree.rev_parse("HEAD"), steps).save()
        made.rename(folder)
    return one_under_way(project, target)


def _old_commits(tree: Repository, series: Series, lock: Lock, source: Source, generated: str) -> tuple[Step, ...]:
    tree.fetch(str(source.repository.folder), f"{BASE_REF}:{BEFORE_BASE}")
    tree.checkout(BEFORE, BEFORE_BASE)
    try:
        tree.am([series.path(file) for file in series.names])
    except GitError as error:
        raise PatchConflictError(
            f"The series does not apply to its own pin {lock.pin.name}: {error.reason}.",
            next_command=f"invoke patch.check --pin {lock.pin.name}",
        ) from error
    if tree.tree_of("HEAD") != lock.end.tree:
        raise PinMismatchError(
            f"The series of {lock.pin.name} ends at another tree: expected {lock.end.tree}, "
            f"found {tree.tree_of('HEAD')}.",
            next_command=f"invoke patch.check --pin {lock.pin.name}",
        )
    commits = tree.commits(BEFORE_BASE, "HEAD")
    return tuple(Step(file, commit.id) for file, commit in zip(series.names, commits, strict=True) if file != generated)


def carry(rebase: Rebase) -> tuple[Rebase, tuple[Conflict, ...]]:
    """Carry patches until all are through, or one conflicts; nothing is lost when this is interrupted."""
    while (number := rebase.pending) is not None:
        step = rebase.steps[number]
        if merging.pick(rebase.tree, step.commit):
            rebase = rebase.after(number, CARRIED)
        elif merging.unmerged(rebase.tree):
            return rebase, stopped(rebase)
        else:  # what the patch does is there already
            merging.leave(rebase.tree)
            rebase = rebase.after(number, DROPPED)
    return rebase, ()


def stopped(rebase: Rebase) -> tuple[Conflict, ...]:
    """Return the open conflicts."""
    number = rebase.pending
    if number is None:
        return ()
    found = []
    for path, stages in sorted(merging.unmerged(rebase.tree).items()):
        file = rebase.tree.folder / path
        text = file.read_bytes().decode("utf-8", "replace") if file.is_file() else ""
        found.append(Conflict(rebase.steps[number].file, path, conflicts.kind(stages), conflicts.regions(text)))
    return tuple(found)


def take_over(rebase: Rebase, *, look_only: bool = False) -> Rebase:
    """Take what somebody did about a conflict: staged files are committed, own commits are taken as they are.

    Args:
        rebase: The rebase.
        look_only: Check, and change nothing.

    Raises:
        PatchConflictError: Files are still in conflict, not staged, or hold markers.
    """
    number, tree = rebase.pending, rebase.tree
    if number is None:
        return rebase
    _require_ready(rebase)
    if look_only:
        return rebase
    if merging.in_the_middle(tree):
        if not merging.staged_nothing(tree):
            merging.commit_as(tree, rebase.steps[number].commit)
            return rebase.after(number, RESOLVED)
        merging.leave(tree)
        return rebase.after(number, DROPPED if tree.rev_parse("HEAD") == rebase.head else RESOLVED)
    if tree.rev_parse("HEAD") != rebase.head:
        return rebase.after(number, RESOLVED)
    return rebase  # given up with git's own --abort or --skip: its turn comes again


def _require_ready(rebase: Rebase) -> None:
    tree = rebase.tree
    shown = f"{rebase.folder.parent.parent.name}/{rebase.folder.parent.name}/{rebase.folder.name}/tree"
    add = f"git -C {shown} add -A && invoke patch.continue"
    still = sorted(merging.unmerged(tree))
    if still:
        raise PatchConflictError(f"Still in conflict: {', '.join(still)}.", next_command=f"resolve them, then {add}")
    markers = merging.leftover_markers(tree)
    if markers:
        raise PatchConflictError(
            f"Conflict markers were staged: {', '.join(markers)}.", next_command=f"resolve them, then {add}"
        )
    unstaged = merging.unstaged(tree)
    if unstaged or not (merging.in_the_middle(tree) or merging.staged_nothing(tree)):
        what = ", ".join(unstaged[:5]) or "staged files"
        raise PatchConflictError(f"Changed and not committed: {what}.", next_command=add)


@contextmanager
def finished(
    project: Project, rebase: Rebase, series: Series, source: Source, pin: Pin
) -> Iterator[tuple[export.Export, Path]]:
    """Make the new series, in a folder beside its place; the caller's block decides whether it goes there.

    Yields:
        The series, and the folder that holds it.
    """
    folder = project.patches(rebase.target)
    prefix = f"{_INCOMING}{rebase.target}-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as staging:
        with tempfile.TemporaryDirectory(dir=rebase.folder) as scratch:
            fresh = worktree.start(Path(scratch) / "export", source)
            generated = generate.generated_name(project)
            first = export.NamedPatch(generated, generate.generate(fresh, source.base, project))
            others = export.from_tree(rebase.tree, series, generate.subject(generate.message(project)))
            commits, patches = export.settle(fresh, Path(scratch), source, [first, *others])
        lock = export.make_lock(rebase.target, pin, source, commits, patches)
        names = tuple(patch.name for patch in patches)
        text = Series(folder, names, series.comments or export.COMMENTS).render()
        made = export.Export(tuple(patches), lock, text, (*names, "series", "lock.toml"), (), None)
        export.write(made, Path(staging) / "made")
        yield made, Path(staging) / "made"


def remove(project: Project, rebase: Rebase) -> None:
    """Remove a rebase's folder, and the one around it when it was the last."""
    shutil.rmtree(rebase.folder)
    if not any(place(project).iterdir()):
        place(project).rmdir()
