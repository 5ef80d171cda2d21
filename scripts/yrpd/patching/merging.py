"""Git's merging verbs, and nothing of the project: what ``git`` needs to carry commits to another base."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from yrpd.git.repository import GitError, Repository


def pick(repository: Repository, commit: str) -> bool:
    """Carry a commit on HEAD, three-way; tell whether that ended in a commit.

    When not, the repository is in the middle of it: with conflicts, or with nothing left to commit.

    Raises:
        GitError: It failed for another reason than a conflict.
    """
    head = repository.rev_parse("HEAD")
    try:
        repository.run("cherry-pick", "--allow-empty-message", commit)
    except GitError:
        if not in_the_middle(repository) or repository.rev_parse("HEAD") != head:
            raise
        return False
    return True


def in_the_middle(repository: Repository) -> bool:
    """Tell whether a pick stopped and was neither committed nor given up."""
    return (repository.folder / ".git" / "CHERRY_PICK_HEAD").exists()


def unmerged(repository: Repository) -> dict[str, frozenset[int]]:
    """Return path to index stages for each file with an open conflict."""
    found: dict[str, set[int]] = defaultdict(set)
    for entry in repository.run("ls-files", "--unmerged", "-z").split(b"\0"):
        if entry:
            meta, path = entry.split(b"\t", 1)
            found[os.fsdecode(path)].add(int(meta.split()[2]))
    return {path: frozenset(stages) for path, stages in found.items()}


def unstaged(repository: Repository) -> list[str]:
    """Return paths that differ from the index, and untracked ones."""
    entries = repository.run("status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames").split(b"\0")
    return [os.fsdecode(entry[3:]) for entry in entries if entry and entry[1:2] != b" "]


def leftover_markers(repository: Repository) -> list[str]:
    """Return ``path:line`` of conflict markers that were staged."""
    try:
        repository.run("diff", "--cached", "--check", "HEAD")
    except GitError as error:
        ending = ": leftover conflict marker"
        lines = os.fsdecode(error.stdout).splitlines()
        return [line.removesuffix(".").removesuffix(ending) for line in lines if line.rstrip(".").endswith(ending)]
    return []


def staged_nothing(repository: Repository) -> bool:
    """Tell whether the index is HEAD's tree."""
    return repository.line("write-tree") == repository.tree_of("HEAD")


def commit_as(repository: Repository, original: str) -> None:
    """Commit the index with another commit's message, author and date."""
    repository.run(
        "commit", "--quiet", "--no-verify", "--no-gpg-sign", "--cleanup=verbatim", f"--reuse-message={original}"
    )


def leave(repository: Repository) -> None:
    """End a pick without a commit; index and files stay."""
    repository.run("cherry-pick", "--quit")


def borrow(repository: Repository, *lenders: Repository) -> None:
    """Let a repository see the objects of others without copying them."""
    info = repository.folder / "objects" / "info"
    info.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{lender.folder.resolve() / 'objects'}\n" for lender in lenders)
    Path(info / "alternates").write_text(lines, encoding="utf-8")


def merge_trees(repository: Repository, ours: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    """Merge two commits without a work tree, and return the tree and the paths in conflict."""
    try:
        out = repository.run("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", ours, theirs)
    except GitError as error:
        if error.status != 1 or not error.stdout:
            raise
        out = error.stdout
    parts = [os.fsdecode(part) for part in out.split(b"\0") if part]
    return parts[0], tuple(parts[1:])
