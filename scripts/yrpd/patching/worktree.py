"""The patched tree on disk: made in one piece, and asked later whether somebody worked in it.

A tree lives in ``build/<pin>/trees/<digest>``, named by the digest of the lock it was made from, and is a repository of
its own, so that it can be moved, edited and committed to. Beside its branch it carries what export and check ask for:

``refs/yrpd/base``      the commit under the series
``refs/yrpd/end``       the commit after the last patch
``refs/yrpd/exported``  the commit that ``patch.export`` last wrote back, once it did
``.git/yrpd/lock.toml`` the lock that it was made from
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from yrpd.documents.series import LOCK, Lock, load_lock
from yrpd.errors import ConfigurationError, PatchConflictError, PinMismatchError
from yrpd.git import mail
from yrpd.git.repository import Commit, GitError, Repository
from yrpd.patching.source import BASE_REF, Source

BRANCH = "series"
BASE = "refs/yrpd/base"
END = "refs/yrpd/end"
EXPORTED = "refs/yrpd/exported"
_IN_THE_MIDDLE = ("rebase-apply", "rebase-merge", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD")


class Condition(StrEnum):
    """What became of a tree since it was made."""

    MISSING = "missing"
    AS_MADE = "as made"
    EXPORTED = "exported"
    EDITED = "edited"


@dataclass(frozen=True)
class TreeState:
    """A tree's condition and, when it was edited, how.

    Attributes:
        condition: The condition.
        why: One clause for people; empty unless edited.
        dirty: Paths with changes that are not committed.
        ahead: Whether it is clean and only its commits are others, so that they could be exported.
    """

    condition: Condition
    why: str = ""
    dirty: tuple[str, ...] = ()
    ahead: bool = False


def inspect(folder: Path) -> TreeState:
    """Return what became of the tree in a folder. Nothing is changed."""
    if not folder.exists():
        return TreeState(Condition.MISSING)
    repository = Repository(folder)
    try:
        end, head = repository.rev_parse(END), repository.rev_parse("HEAD")
        dirty = repository.status()
    except GitError as error:
        return TreeState(Condition.EDITED, f"it is not the repository that was made there ({error.reason})")
    middle = next((name for name in _IN_THE_MIDDLE if (folder / ".git" / name).exists()), None)
    if middle:
        return TreeState(Condition.EDITED, f"git is in the middle of something there (.git/{middle})", tuple(dirty))
    if dirty:
        shown = ", ".join(dirty[:3]) + (f" and {len(dirty) - 3} more" if len(dirty) > 3 else "")
        return TreeState(Condition.EDITED, f"changes are not committed ({shown})", tuple(dirty))
    if head == end:
        return TreeState(Condition.AS_MADE)
    try:
        if repository.rev_parse(EXPORTED) == head:
            return TreeState(Condition.EXPORTED)
    except GitError:
        pass
    return TreeState(Condition.EDITED, f"its HEAD is {head[:12]}, the series ends at {end[:12]}", ahead=True)


def origin(folder: Path) -> Lock | None:
    """Return the lock that a tree was made from, or ``None`` when that is not known any more."""
    try:
        return load_lock(folder / ".git" / "yrpd")
    except ConfigurationError:
        return None


def start(folder: Path, source: Source) -> Repository:
    """Make a repository with the pin's tree checked out in a new folder."""
    repository = Repository.init(folder)
    try:
        repository.fetch(str(source.repository.folder), f"{BASE_REF}:{BASE}")
    except GitError as error:
        if error.disk_full:  # then nothing is wrong with the source
            raise
        message = f"{source.repository.folder} does not give the tree {source.tree} back any more: {error.reason}."
        raise PinMismatchError(message, next_command=f"rm -r {source.repository.folder} && invoke patch") from error
    repository.checkout(BRANCH, BASE)
    return repository


def apply(repository: Repository, patches: Sequence[Path]) -> list[Commit]:
    """Apply patches on the base and return their commits, one each.

    Raises:
        PatchConflictError: One does not apply; patch and file are named. Its predecessors are applied.
    """
    whole = [patch for patch in patches if mail.count_mails(patch.read_bytes()) == 1]
    odd = next((patch for patch in patches if patch not in whole), None)
    usable = patches[: patches.index(odd)] if odd else patches
    try:
        repository.am(usable)
    except GitError as error:
        number = repository.am_progress()
        if number == 0 or error.disk_full:  # it never came to a patch, so none is to blame
            raise
        message = f"{usable[number - 1].name} does not apply: {error.reason.removeprefix('error: ')}."
        raise PatchConflictError(message, next_command="invoke patch.check", detail=error.stderr) from error
    if odd is not None:
        raise PatchConflictError(
            f"{odd.name} does not apply: it must hold one patch as git format-patch writes it, and holds "
            f"{mail.count_mails(odd.read_bytes())}.",
            next_command="invoke patch.check",
        )
    return repository.commits(BASE, "HEAD")


def finish(repository: Repository, lock: Lock, ignored: Sequence[str]) -> None:
    """Put down in the tree's repository what it was made from.

    Args:
        repository: The tree, with the series applied.
        lock: The series' lock.
        ignored: Paths that a later build makes in the tree; they are no edits.
    """
    repository.update_ref(END, "HEAD")
    kept = repository.folder / ".git" / "yrpd"
    kept.mkdir()
    (kept / LOCK).write_text(lock.render(), encoding="utf-8")
    info = repository.folder / ".git" / "info"
    info.mkdir(exist_ok=True)
    (info / "exclude").write_text("".join(f"/{path}\n" for path in ignored), encoding="utf-8")


def swap_in(made: Path, final: Path) -> None:
    """Put a finished tree in its place; a reader sees the old one, none, or the new one, never a part."""
    old = made.with_name("replaced")
    if final.exists():
        final.rename(old)
    made.rename(final)
