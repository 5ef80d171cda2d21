"""Back from sources and commits to patch files: the inverse of apply.

The new series is the generated connector patch followed by the other patches: as the commits of the work tree have them
when somebody committed there, as the files have them when not. All of it is applied and formatted again in a scratch
repository before a file is written, so what is written is known to apply and to come back with the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yrpd.documents.series import LOCK, SERIES, Base, Lock, LockedPatch, LockedPin, Point, Series
from yrpd.errors import ConfigurationError, PatchConflictError, PinMismatchError
from yrpd.git import mail
from yrpd.git.repository import Commit, Repository
from yrpd.patching import apply, generate, worktree
from yrpd.patching.source import Source
from yrpd.patching.worktree import Condition
from yrpd.project import Project
from yrpd.release import Pin


@dataclass(frozen=True)
class NamedPatch:
    """A patch file to be.

    Attributes:
        name: Its file name.
        content: Its bytes.
        message: The message that must survive, when the patch comes from a commit.
    """

    name: str
    content: bytes
    message: str = ""


@dataclass(frozen=True)
class Export:
    """A whole series to be.

    Attributes:
        patches: The patches, in order.
        lock: Their lock.
        series: Text of the series file.
        changed: File names whose bytes are not on disk yet.
        removed: File names that left the series.
        exported_tree: The work tree whose commits went in, or ``None``.
    """

    patches: tuple[NamedPatch, ...]
    lock: Lock
    series: str
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    exported_tree: Path | None


def prepare(project: Project, name: str, pin: Pin, source: Source, series: Series, lock: Lock | None) -> Export:
    """Compute the new series. Nothing is changed but scratch files.

    Raises:
        PinMismatchError: A patch file is not what the lock names.
        PatchConflictError: The patches do not apply one after the other.
        ConfigurationError: The work tree is not in a state that can be exported.
    """
    _require_unharmed(series, lock, generate.generated_name(project))
    with tempfile.TemporaryDirectory(dir=project.pin_build(name), prefix=apply.LEFTOVER) as folder:
        scratch = worktree.start(Path(folder) / "export", source)
        others, ahead = _other_patches(project, name, series, lock)
        first = NamedPatch(generate.generated_name(project), generate.generate(scratch, source.base, project))
        commits, patches = settle(scratch, Path(folder), source, [first, *others])
    new_lock = make_lock(name, pin, source, commits, patches)
    text = Series(series.folder, tuple(patch.name for patch in patches), series.comments or COMMENTS).render()
    files = [
        *((patch.name, patch.content) for patch in patches),
        (SERIES, text.encode()),
        (LOCK, new_lock.render().encode()),
    ]
    changed = tuple(file for file, content in files if _on_disk(series.folder / file) != content)
    kept = {patch.name for patch in patches}
    return Export(tuple(patches), new_lock, text, changed, tuple(n for n in series.names if n not in kept), ahead)


COMMENTS = (
    "# In the order they are applied. A name follows from its patch's subject; the order is here and nowhere else.",
)


def settle(
    scratch: Repository, place: Path, source: Source, wanted: Sequence[NamedPatch]
) -> tuple[list[Commit], list[NamedPatch]]:
    """Apply and format until that changes nothing any more, or say which patch it keeps changing.

    Args:
        scratch: A fresh tree in ``place``; holds the series afterwards.
        place: A folder for another one.
        source: What the patches go on.
        wanted: The patches, in order.

    Raises:
        ConfigurationError: Two patches would be one file.
        PatchConflictError: A patch does not apply, or does not come back unchanged.
    """
    _require_distinct([patch.name for patch in wanted])
    commits, patches = normalise(scratch, wanted)
    _, again = normalise(worktree.start(place / "again", source), patches)
    _require_stable(patches, again)
    return commits, patches


def normalise(scratch: Repository, patches: Sequence[NamedPatch]) -> tuple[list[Commit], list[NamedPatch]]:
    """Apply patches and format the commits: the form in which a patch comes back unchanged.

    Args:
        scratch: A fresh tree, see ``worktree.start``; holds the series afterwards.
        patches: In order.
    """
    place = scratch.folder / ".git" / "incoming"
    place.mkdir()
    for patch in patches:
        (place / patch.name).write_bytes(patch.content)
    commits = worktree.apply(scratch, [place / patch.name for patch in patches])
    messages = scratch.messages(worktree.BASE, "HEAD")
    for patch, commit in zip(patches, commits, strict=True):
        if patch.message and messages[commit.id].split() != patch.message.split():
            raise _message_lost(patch.name)
    contents = scratch.format_patch(worktree.BASE)
    return commits, [NamedPatch(p.name, content) for p, content in zip(patches, contents, strict=True)]


def make_lock(name: str, pin: Pin, source: Source, commits: Sequence[Commit], patches: Sequence[NamedPatch]) -> Lock:
    """Return the lock of an applied series."""
    entries = tuple(
        LockedPatch(file=patch.name, sha256=hashlib.sha256(patch.content).hexdigest(), tree=commit.tree)
        for patch, commit in zip(patches, commits, strict=True)
    )
    end = Point(commit=commits[-1].id, tree=commits[-1].tree) if commits else Point(commit=source.base, tree=pin.tree)
    locked_pin = LockedPin(name=name, commit=pin.commit, tree=pin.tree)
    return Lock(pin=locked_pin, base=Base(commit=source.base), patches=entries, end=end)


def write(export: Export, folder: Path) -> None:
    """Write what changed, the lock last, each file in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {patch.name: patch.content for patch in export.patches}
    contents[SERIES] = export.series.encode()
    contents[LOCK] = export.lock.render().encode()
    for name in sorted(export.changed, key=lambda name: (name == LOCK, name == SERIES)):
        partial = folder / f".{name}.incoming"
        partial.write_bytes(contents[name])
        os.replace(partial, folder / name)
    for name in export.removed:
        (folder / name).unlink(missing_ok=True)
    if export.exported_tree is not None:
        Repository(export.exported_tree).update_ref(worktree.EXPORTED, "HEAD")


def _on_disk(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _require_unharmed(series: Series, lock: Lock | None, generated: str) -> None:
    """A patch that differs from its lock entry was edited by hand or damaged; export must not make that official."""
    locked = {entry.file: entry.sha256 for entry in lock.patches} if lock else {}
    for name in series.names:
        where = f"patches/{series.folder.name}/{name}"
        found = hashlib.sha256(series.read(name)).hexdigest()
        if name != generated and locked.get(name, found) != found:
            raise PinMismatchError(
                f"{where} was changed by hand: expected sha256 {locked[name]}, found {found}.",
                next_command=f"git checkout -- {where}   (and make the change in the work tree)",
            )


def _other_patches(
    project: Project, name: str, series: Series, lock: Lock | None
) -> tuple[list[NamedPatch], Path | None]:
    """Return the patches after the generated one, and the work tree they come from when it is ahead."""
    generated = generate.generated_name(project)
    tree = apply.current_tree(project, name)
    state = worktree.inspect(tree) if tree is not None else worktree.TreeState(Condition.MISSING)
    if tree is None or state.condition is not Condition.EDITED:
        return [NamedPatch(file, series.read(file)) for file in series.names if file != generated], None
    if not state.ahead:
        raise ConfigurationError(
            f"The work tree {tree} cannot be exported: {state.why}.",
            next_command=f"git -C {tree} commit -a   (then invoke patch.export; or invoke patch --discard)",
        )
    _require_same_series(worktree.origin(tree), lock, generated, tree)
    return from_tree(Repository(tree), series, generate.subject(generate.message(project))), tree


def _require_same_series(made_from: Lock | None, lock: Lock | None, generated: str, tree: Path) -> None:
    """Commits made on another series than the files hold would silently undo what came in between."""
    before, now = (
        [(e.file, e.sha256) for e in x.patches if e.file != generated] if x else None for x in (made_from, lock)
    )
    if before != now:
        raise ConfigurationError(
            f"The work tree {tree} was made from another series than the patches folder holds now, "
            "so its commits cannot be exported over it.",
            next_command="git diff patches   (then, to start from the files: invoke patch --discard)",
        )


def from_tree(repository: Repository, series: Series, generated: str) -> list[NamedPatch]:
    """Return the patches that the commits of a tree make, without the generated one.

    Args:
        repository: A tree with the refs that ``worktree`` describes.
        series: Gives a patch whose subject it has its file name.
        generated: Subject of the generated patch.

    Raises:
        ConfigurationError: A commit is a merge, changes nothing, or touches the generated package.
    """
    commits = repository.commits(worktree.BASE, "HEAD")
    merge = next((commit for commit in commits if len(commit.parents) != 1), None)
    if merge is not None:
        raise ConfigurationError(
            f"Commit {merge.id[:12]} ({merge.subject}) is a merge, and a series is a line.",
            next_command=f"git -C {repository.folder} rebase {worktree.BASE}",
        )
    contents = repository.format_patch(worktree.BASE)
    empty = next((commit for commit, content in zip(commits, contents, strict=True) if not content), None)
    if empty is not None:
        raise ConfigurationError(
            f"Commit {empty.id[:12]} ({empty.subject}) changes nothing, so it cannot be a patch.",
            next_command=f"git -C {repository.folder} rebase -i --empty=drop {worktree.BASE}",
        )
    names = {mail.parse_message(series.read(file)).subject: file for file in series.names}
    messages = repository.messages(worktree.BASE, "HEAD")
    found = []
    for commit, content in zip(commits, contents, strict=True):
        if commit.subject == generated:
            _require_generated_untouched(repository, commit)
            continue
        _require_outside_connector(repository, commit)
        name = names.get(commit.subject, mail.file_name(commit.subject))
        found.append(NamedPatch(name, content, messages[commit.id]))
    return found


def _require_generated_untouched(repository: Repository, commit: Commit) -> None:
    def connector(revision: str) -> dict[str, str]:
        prefix = f"{generate.DESTINATION}/"
        return {path: blob for path, blob in repository.blob_ids(revision).items() if path.startswith(prefix)}

    if connector(commit.id) != connector(worktree.END):
        raise _connector_edited(commit)


def _require_outside_connector(repository: Repository, commit: Commit) -> None:
    if any(path.startswith(f"{generate.DESTINATION}/") for path in repository.changed_paths(commit.id)):
        raise _connector_edited(commit)


def _connector_edited(commit: Commit) -> ConfigurationError:
    return ConfigurationError(
        f"Commit {commit.id[:12]} ({commit.subject}) changes {generate.DESTINATION}, which is generated from "
        "connector_src/yuanrong.",
        next_command="invoke patch.export   (after making that change in connector_src/yuanrong instead)",
    )


def _require_distinct(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigurationError(
            f"Two patches of the series would be the file {twice[0]}; a file's name follows from its subject.",
            next_command="git commit --amend   (in the work tree, with another subject)",
        )


def _require_stable(patches: Sequence[NamedPatch], again: Sequence[NamedPatch]) -> None:
    for one, other in zip(patches, again, strict=True):
        if one.content != other.content:
            raise _message_lost(one.name)


def _message_lost(name: str) -> PatchConflictError:
    return PatchConflictError(
        f"{name} does not come back unchanged from git am: its message holds something that git reads as the beginning "
        "of the diff or of another mail, such as a line '---'.",
        next_command="git commit --amend   (in the work tree)",
    )
