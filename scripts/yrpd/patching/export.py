"""Back from sources and commits to patch files: the inverse of apply.

The new series is the generated connector patch followed by the other patches: as the commits of the work tree have them
when somebody committed there, as the files have them when not. All of it is applied and formatted again in a scratch
repository before a file is written, so what is written is known to apply and to come back with the same bytes.
"""

from __future__ import annotations

import hashlib
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
from yrpd.project import Project, write_bytes
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
        files: File name to bytes, in the order in which they are written: the patches, ``series``, ``lock.toml``.
        lock: The lock.
        changed: File names whose bytes are not on disk yet.
        removed: File names that left the series.
        exported_tree: The work tree whose commits went in, or ``None``.
    """

    files: dict[str, bytes]
    lock: Lock
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
    others, ahead = _other_patches(project, name, series, lock)
    return _settled(project, name, pin, source, series, others, ahead)


def of_tree(project: Project, name: str, pin: Pin, source: Source, series: Series, tree: Repository) -> Export:
    """Compute the first series of a pin from the commits of a tree.

    Args:
        project: The checkout.
        name: The pin's name.
        pin: The pin.
        source: The pin's source, which the tree's commits go on.
        series: The series of another pin, from which the patches come; it gives them their file names.
        tree: The tree.

    Raises:
        ConfigurationError: See ``from_tree``.
        PatchConflictError: A message does not survive.
    """
    others = from_tree(tree, series, generate.subject(generate.message(project)))
    return _settled(project, name, pin, source, Series(project.patches(name), (), series.comments), others, None)


def _settled(
    project: Project,
    name: str,
    pin: Pin,
    source: Source,
    series: Series,
    others: Sequence[NamedPatch],
    ahead: Path | None,
) -> Export:
    """Return the generated patch and others as the series that takes the place of ``series``."""
    with tempfile.TemporaryDirectory(dir=project.pin_build(name), prefix=apply.LEFTOVER) as folder:
        scratch = worktree.start(Path(folder) / "export", source)
        first = NamedPatch(generate.generated_name(project), generate.generate(scratch, source.base, project))
        wanted = [first, *others]
        _require_distinct([patch.name for patch in wanted])
        commits, patches = normalise(scratch, wanted)
        _, again = normalise(worktree.start(Path(folder) / "again", source), patches)
        for one, other in zip(patches, again, strict=True):
            if one.content != other.content:
                raise _message_lost(one.name)
    new_lock = make_lock(name, pin, source, commits, patches)
    text = Series(series.folder, tuple(patch.name for patch in patches), series.comments or COMMENTS).render()
    files = {patch.name: patch.content for patch in patches}
    files |= {SERIES: text.encode(), LOCK: new_lock.render().encode()}
    there = {path.name: path.read_bytes() for path in series.folder.glob("*") if path.is_file()}
    changed = tuple(file for file, content in files.items() if there.get(file) != content)
    return Export(files, new_lock, changed, tuple(name for name in series.names if name not in files), ahead)


COMMENTS = (
    "# In the order they are applied. A name follows from its patch's subject; the order is here and nowhere else.",
)


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
    for name in export.changed:
        write_bytes(folder / name, export.files[name])
    for name in export.removed:
        (folder / name).unlink(missing_ok=True)
    if export.exported_tree is not None:
        Repository(export.exported_tree).update_ref(worktree.EXPORTED, "HEAD")


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
    if generate.hand_made(project, worktree.origin(tree)) != generate.hand_made(project, lock):
        raise ConfigurationError(  # the commits would silently undo what came in between
            f"The work tree {tree} was made from another series than the patches folder holds now, "
            "so its commits cannot be exported over it.",
            next_command="git diff patches   (then, to start from the files: invoke patch --discard)",
        )
    return from_tree(Repository(tree), series, generate.subject(generate.message(project))), tree


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
        message = f"Commit {merge.id[:12]} ({merge.subject}) is a merge, and a series is a line."
        raise ConfigurationError(message, next_command=f"git -C {repository.folder} rebase {worktree.BASE}")
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
        before = worktree.END if commit.subject == generated else f"{commit.id}^"
        package = generate.DESTINATION
        if repository.find(f"{commit.id}:{package}") != repository.find(f"{before}:{package}"):
            raise ConfigurationError(
                f"Commit {commit.id[:12]} ({commit.subject}) changes {package}, which is generated from "
                "connector_src/yuanrong.",
                next_command="invoke patch.export   (after making that change in connector_src/yuanrong instead)",
            )
        if commit.subject == generated:
            continue
        name = names.get(commit.subject, mail.file_name(commit.subject))
        found.append(NamedPatch(name, content, messages[commit.id]))
    return found


def _require_distinct(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        message = f"Two patches of the series would be the file {twice[0]}; a file's name follows from its subject."
        raise ConfigurationError(message, next_command="git commit --amend   (in the work tree, with another subject)")


def _message_lost(name: str) -> PatchConflictError:
    return PatchConflictError(
        f"{name} does not come back unchanged from git am: its message holds something that git reads as the beginning "
        "of the diff or of another mail, such as a line '---'.",
        next_command="git commit --amend   (in the work tree)",
    )
