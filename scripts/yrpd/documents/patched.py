"""The patched tree that ``invoke patch`` left, checked to be what its record says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yrpd.errors import ConfigurationError, PinMismatchError
from yrpd.git.repository import GitError, Repository
from yrpd.project import Project, read_state
from yrpd.release import Pin, Release, load_release

# What the compiled parts are made from; a series that leaves these alone keeps the base image's kernels.
COMPILED = ("csrc/", "cmake/", "CMakeLists.txt", "setup.py")


@dataclass(frozen=True)
class Patched:
    """A patched tree.

    Attributes:
        name: The pin's name.
        pin: The pin.
        worktree: The work tree's folder.
        version: Version of the patched tree.
        commit: Its commit id.
        tree: Its tree id.
        series_digest: What the series was.
        patches: The patches' names, in order.
        changed: The files that the series changes.
    """

    name: str
    pin: Pin
    worktree: Path
    version: str
    commit: str
    tree: str
    series_digest: str
    patches: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def compiled_changes(self) -> tuple[str, ...]:
        """The changed files that compiled parts are made from."""
        return tuple(name for name in self.changed if touches_compiled(name))

    @property
    def kernels(self) -> str:
        """Whether the kernels have to be rebuilt, as a sentence."""
        if self.compiled_changes:
            return f"kernel rebuild: needed, the series changes {', '.join(self.compiled_changes)}"
        return f"kernel rebuild: not needed, the series touches none of {', '.join(COMPILED)}"


def touches_compiled(name: str) -> bool:
    """Return whether a path of the tree is an input of its compiled parts."""
    return name.startswith(COMPILED[:2]) or name in COMPILED[2:]


def _record(project: Project, name: str) -> dict[str, Any]:
    record = read_state(project, name).get("patch")
    if not isinstance(record, dict):
        message = f"There is no patched tree of {name}: invoke patch has not run in this checkout."
        raise ConfigurationError(message, next_command=f"invoke patch --pin {name}")
    return record


def load_patched(project: Project, pin: str = "") -> tuple[Release, Patched]:
    """Return the patched tree of a pin.

    Raises:
        ConfigurationError: There is no such pin, or it was not patched yet.
        PinMismatchError: The tree is not what its record says: another commit, or edited.
    """
    release = load_release(project.release_file)
    name, table = release.pin(pin)
    record = _record(project, name)
    worktree = project.root / str(record["worktree"])
    again = f"invoke patch --pin {name} --discard"
    repository = Repository(worktree)
    try:
        head, tree = repository.rev_parse("HEAD"), repository.tree_of("HEAD")
        edited = repository.status()
        changed = repository.run("diff", "--name-only", "-z", str(record["base_commit"]), "HEAD").split(b"\0")
    except (GitError, OSError) as error:
        message = f"The patched tree {worktree} is gone or broken."
        raise ConfigurationError(message, next_command=f"invoke patch --pin {name}") from error
    if (head, tree) != (record["commit"], record["tree"]):
        raise PinMismatchError(
            f"The patched tree {worktree} is at commit {head}, tree {tree}; invoke patch left commit "
            f"{record['commit']}, tree {record['tree']}.",
            next_command=again,
        )
    if edited:
        message = f"The patched tree {worktree} has edits that no patch holds: {', '.join(edited[:5])}."
        raise PinMismatchError(message, next_command=f"invoke patch.export to keep them, or {again}")
    version = release.patched_version(name)
    return release, Patched(
        name=name,
        pin=table,
        worktree=worktree,
        version=version,
        commit=head,
        tree=tree,
        series_digest=str(record["series_digest"]),
        patches=tuple(record["patches"]),
        changed=tuple(os.fsdecode(path) for path in changed if path),
    )


def archive(patched: Patched) -> bytes:
    """Return the patched commit's files as a tar archive, without ``.git``."""
    return Repository(patched.worktree).run("archive", "--format=tar", patched.commit)


def committed(patched: Patched) -> datetime:
    """Return when the patched commit was committed, in UTC."""
    return datetime.fromtimestamp(
        int(Repository(patched.worktree).line("log", "-1", "--format=%ct", patched.commit)), UTC
    )


def edits(patched: Patched) -> list[str]:
    """Return the paths of the work tree that are not as committed."""
    return Repository(patched.worktree).status()


def tree_listing(patched: Patched) -> str:
    """Return the patched tree's files as ``git ls-tree -r`` prints them, no path quoted."""
    return "".join(f"{row}\n" for row in _rows(patched, patched.tree))


def pin_listing(patched: Patched) -> tuple[bytes, bytes]:
    """Return the pinned tree's files twice: paths ended by NUL, and lines as ``git ls-files -s`` prints them."""
    paths, index = [], []
    for row in _rows(patched, patched.pin.tree):
        mode, _, rest = row.partition(" ")
        _, _, rest = rest.partition(" ")
        identity, _, path = rest.partition("\t")
        paths.append(path)
        index.append(f"{mode} {identity} 0\t{path}\n")
    return "".join(f"{path}\0" for path in paths).encode("utf-8"), "".join(index).encode("utf-8")


def _rows(patched: Patched, tree: str) -> list[str]:
    listed = Repository(patched.worktree).run("ls-tree", "-r", "-z", "--full-tree", tree)
    return listed.decode("utf-8").rstrip("\0").split("\0")
