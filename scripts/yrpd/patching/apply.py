"""From a series to the patched tree: what is there is kept, what changed is named, and edits are never lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from yrpd import project as project_files
from yrpd.documents.series import DIGEST_LENGTH, Lock, Series
from yrpd.errors import EnvironmentFailure, PatchConflictError, PinMismatchError
from yrpd.git.repository import Commit, GitError, Repository
from yrpd.patching import worktree
from yrpd.patching.source import Source
from yrpd.patching.worktree import Condition
from yrpd.project import Project, read_state
from yrpd.release import Pin

STAGE = "patch"
LEFTOVER = ".incoming-"


class Reason(StrEnum):
    """Why a tree is made, or is not."""

    UNCHANGED = "the tree of lock {lock} is there and nobody changed it"
    NEVER_APPLIED = "nothing was applied yet"
    TREE_MISSING = "the tree of lock {lock} is gone"
    TREE_KEPT = "the tree of lock {lock} was made earlier and is used again"
    TREE_EXPORTED = "the tree of lock {lock} has other commits with the same content"
    DISCARDED = "edits in {what} are discarded, as asked"
    PIN_CHANGED = "the pin changed from {what}"
    PATCH_ADDED = "{what} is new in the series"
    PATCH_REMOVED = "{what} left the series"
    PATCH_CHANGED = "{what} has other content"
    ORDER_CHANGED = "the order of the series changed"
    RESULT_CHANGED = "the lock names another result"

    def say(self, **values: str) -> str:
        """Return the reason for people: its name, then a sentence."""
        return f"{self.name}: {self.value.format(**values)}"


@dataclass(frozen=True)
class Plan:
    """What ``invoke patch`` is going to do.

    Attributes:
        state: ``applied`` or ``unchanged``, as the document will say.
        make: Whether the tree has to be made.
        reasons: Why.
        folder: The tree's place.
        discard: Edited trees that go away.
    """

    state: str
    make: bool
    reasons: tuple[str, ...]
    folder: Path
    discard: tuple[Path, ...] = ()


def trees(project: Project, name: str) -> Path:
    """Return the folder of a pin's work trees."""
    return project.pin_build(name) / "trees"


def current_tree(project: Project, name: str) -> Path | None:
    """Return the tree that was applied last, or ``None``."""
    recorded = read_state(project, name).get(STAGE, {}).get("worktree")
    return project.root / recorded if recorded else None


def plan(project: Project, name: str, lock: Lock, *, discard: bool) -> Plan:
    """Decide what to do. Nothing is changed.

    Raises:
        PatchConflictError: A tree was edited, and ``discard`` does not say that the edits may go.
    """
    folder = trees(project, name) / lock.folder
    current = current_tree(project, name)
    edited: list[Path] = []
    for place in dict.fromkeys(place for place in (current, folder) if place is not None):
        state = worktree.inspect(place)
        if state.condition is Condition.EDITED:
            if not discard:
                raise _edited(project, place, state)
            edited.append(place)
    reasons = [Reason.DISCARDED.say(what=_shown(project, place)) for place in edited]
    condition = worktree.inspect(folder).condition if folder not in edited else Condition.EDITED
    if condition is Condition.AS_MADE and Repository(folder).rev_parse("HEAD") == lock.end.commit:
        if current == folder and not reasons:
            return Plan("unchanged", False, (Reason.UNCHANGED.say(lock=lock.folder),), folder)
        kept = Reason.TREE_KEPT.say(lock=lock.folder)
        return Plan("applied", False, (*reasons, *_changes(current, lock), kept), folder, tuple(edited))
    if condition is Condition.EXPORTED:
        reasons.append(Reason.TREE_EXPORTED.say(lock=lock.folder))
    elif condition is Condition.MISSING and current == folder:
        reasons.append(Reason.TREE_MISSING.say(lock=lock.folder))
    reasons += _changes(current, lock)
    return Plan("applied", True, tuple(reasons or [Reason.NEVER_APPLIED.say()]), folder, tuple(edited))


def changes(before: Lock, after: Lock) -> list[str]:
    """Return why one lock's tree is not another's, every reason that holds."""
    reasons = []
    if before.pin != after.pin:
        reasons.append(Reason.PIN_CHANGED.say(what=f"{before.pin.name} at tree {before.pin.tree[:12]}"))
    old = {entry.file: entry.sha256 for entry in before.patches}
    new = {entry.file: entry.sha256 for entry in after.patches}
    reasons += [Reason.PATCH_ADDED.say(what=file) for file in new if file not in old]
    reasons += [Reason.PATCH_REMOVED.say(what=file) for file in old if file not in new]
    reasons += [Reason.PATCH_CHANGED.say(what=file) for file in new if file in old and old[file] != new[file]]
    if [file for file in old if file in new] != [file for file in new if file in old]:
        reasons.append(Reason.ORDER_CHANGED.say())
    if not reasons and before != after:
        reasons.append(Reason.RESULT_CHANGED.say())
    return reasons


def execute(project: Project, name: str, pin: Pin, planned: Plan, source: Source, series: Series, lock: Lock) -> None:
    """Carry a plan out: the tree appears finished and proved, or not at all.

    Raises:
        PatchConflictError: A patch does not apply.
        PinMismatchError: The result is not what the lock names.
    """
    place = trees(project, name)
    place.mkdir(parents=True, exist_ok=True)
    if planned.make:
        with tempfile.TemporaryDirectory(dir=place, prefix=LEFTOVER) as scratch:
            repository = worktree.start(Path(scratch) / "tree", source)
            require_result(worktree.apply(repository, [series.path(file) for file in series.names]), source, lock)
            worktree.finish(repository, lock, pin.sdist.generated)
            worktree.swap_in(repository.folder, planned.folder)
    for edited in planned.discard:
        if edited != planned.folder:
            shutil.rmtree(edited)


def differences(commits: Sequence[Commit], source: Source, lock: Lock) -> Iterator[tuple[str, str]]:
    """Yield (``base``, ``tree`` or ``commit``, expected and found) where git's result is not the lock's."""
    trees_found = (commit.tree for commit in commits)
    end = commits[-1] if commits else Commit(source.base, source.tree, (), "")
    for kind, what, expected, found in (
        ("base", "the base commit", lock.base.commit, source.base),
        *(("tree", f"the tree after {e.file}", e.tree, t) for e, t in zip(lock.patches, trees_found, strict=False)),
        ("tree", "the tree at the end", lock.end.tree, end.tree),
        ("commit", "the commit at the end", lock.end.commit, end.id),
    ):
        if expected != found:
            yield kind, f"{what}: expected {expected}, found {found}"


def require_result(commits: Sequence[Commit], source: Source, lock: Lock) -> None:
    """Check every tree on the way and the commit at the end against the lock.

    Raises:
        PinMismatchError: One is another; the patch is named.
    """
    for _, told in differences(commits, source, lock):
        raise PinMismatchError(f"The result is not the lock's: {told}.", next_command="invoke patch.check")


def document(project: Project, name: str, version: str, planned: Plan, series: Series, lock: Lock) -> dict[str, Any]:
    """Return the record that later stages read."""
    return {
        "pin": name,
        "version": version,
        "base_commit": lock.base.commit,
        "base_tree": lock.pin.tree,
        "tree": lock.end.tree,
        "commit": lock.end.commit,
        "worktree": _shown(project, planned.folder),
        "patches": list(series.names),
        "series_digest": lock.digest,
    }


def remove_stale_trees(project: Project, name: str, keep: tuple[Path | None, ...]) -> list[str]:
    """Remove trees of earlier locks that nobody worked in, and return their names."""
    removed = []
    for folder in sorted(trees(project, name).glob("[0-9a-f]" * DIGEST_LENGTH)):
        if folder not in keep and worktree.inspect(folder).condition is not Condition.EDITED:
            shutil.rmtree(folder)
            removed.append(folder.name)
    return removed


@contextmanager
def exclusive(project: Project, name: str) -> Iterator[None]:
    """Let one process at a time patch a pin, and remove what an interrupted one left.

    Raises:
        EnvironmentFailure: Another one is at work.
    """
    with project_files.exclusive(project, name, "patch"):
        for leftover in (*project.pin_build(name).glob(f"{LEFTOVER}*"), *trees(project, name).glob(f"{LEFTOVER}*")):
            shutil.rmtree(leftover)
        yield


def _changes(current: Path | None, lock: Lock) -> list[str]:
    before = worktree.origin(current) if current is not None else None
    return changes(before, lock) if before is not None else []


def _shown(project: Project, path: Path) -> str:
    return path.relative_to(project.root).as_posix() if path.is_relative_to(project.root) else str(path)


def _edited(project: Project, folder: Path, state: worktree.TreeState) -> PatchConflictError:
    shown = _shown(project, folder)
    commit = f"git -C {shown} commit -a, then " if state.dirty else ""
    return PatchConflictError(
        f"The work tree {shown} was edited: {state.why}.",
        next_command=f"{commit}invoke patch.export   (keeps the edits; invoke patch --discard drops them)",
    )


def git_failure(error: GitError) -> EnvironmentFailure:
    """Return a git failure that nothing above had a better word for, such as a full disk."""
    following = "df -h .   (then the same command again)" if error.disk_full else "invoke patch --verbose"
    told = f"git {error.command} failed, and nothing was applied: {error.reason.rstrip('.')}"
    if error.disk_full and error.free is not None:
        told += f"; the disk is full ({error.free >> 10} KiB free)"
    return EnvironmentFailure(f"{told}.", next_command=following, detail=error.stderr)
