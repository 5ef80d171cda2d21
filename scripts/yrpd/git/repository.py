"""Git, and nothing of the project: small functions named after git's verbs, the same result on every machine.

No setting of the caller reaches git; ``isolation`` says how.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yrpd.git.isolation import IsolatedGit, environment, gitpython

TIMED_OUT = 124  # coreutils' timeout
# What no setting decides; the others are in ``isolation``.
_AM_OPTIONS = (
    "--committer-date-is-author-date",
    "--keep",  # the inverse of format-patch --keep-subject: "[PATCH 1/2]" and "Re:" stay too
    "--no-gpg-sign",
    "--no-message-id",
    "--quiet",
)
_FORMAT_OPTIONS = (
    *("--zero-commit", "--full-index", "--no-signature", "--no-stat", "--keep-subject", "--binary", "--no-attach"),
    *("--no-to", "--no-cc", "--no-add-header", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative"),
    "--quiet",
)


# With less than this free, a failed git command is taken to have failed for it; a file of upstream's is larger.
_ROOM = 1 << 20


class GitError(Exception):
    """A git command failed.

    Attributes:
        command: The verb, such as ``am``.
        status: Git's exit status.
        stderr: What git said.
        stdout: What it had written until then.
        free: Bytes that were free on its disk right after; ``None`` when that is not known.
    """

    def __init__(self, command: str, status: int, stderr: str, stdout: bytes = b"", *, free: int | None = None) -> None:
        self.command = command
        self.status = status
        self.stderr = stderr.strip()
        self.stdout = stdout
        self.free = free
        super().__init__(f"git {command} failed ({status}): {self.stderr}")

    @property
    def disk_full(self) -> bool:
        """Whether git ran out of space. Not every git command says so, hence the look at what was left."""
        return os.strerror(errno.ENOSPC) in self.stderr or (self.free is not None and self.free < _ROOM)

    @property
    def reason(self) -> str:
        """The line of git's output that tells most: the first error, else the last line."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("fatal:", "error:"))]
        return (errors or lines[-1:] or [f"git {self.command} ended with status {self.status}"])[0]


@dataclass(frozen=True)
class Signature:
    """Who and when: an author or a committer.

    Attributes:
        name: A name.
        email: An address.
        date: In a form git reads without guessing, such as ``2026-01-01T00:00:00+0000``.
    """

    name: str
    email: str
    date: str


@dataclass(frozen=True)
class Commit:
    """One commit of a linear history.

    Attributes:
        id: The commit id.
        tree: Its tree's id.
        parents: Ids of its parents.
        subject: The first paragraph of its message on one line.
    """

    id: str
    tree: str
    parents: tuple[str, ...]
    subject: str


def blob_id(content: bytes) -> str:
    """Return git's id for a blob.

    >>> blob_id(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Repository:
    """One repository, bare or with a work tree.

    Args:
        folder: The work tree, or the bare repository itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # git runs in the folder, so nothing relative to elsewhere may reach it
        self._git = IsolatedGit(self.folder)
        # A folder that is no repository must not be taken for part of one further up.
        self._git.update_environment(**environment(), GIT_CEILING_DIRECTORIES=str(folder.resolve().parent))

    # --- running git ------------------------------------------------------------------------------------------------

    def run(
        self, verb: str, *args: str, deadline: float = 0, env: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> bytes:
        """Run ``git VERB ARGS`` in the folder and return its standard output, byte for byte.

        Args:
            verb: The git command.
            args: Its arguments.
            deadline: Seconds after which git and all it started are ended; 0 means never.
            env: More environment.
            stdin: What git reads.

        Raises:
            GitError: Git failed, is not installed, or the deadline passed (status 124).
        """
        if not self.folder.is_dir():  # GitPython would run in the current folder instead
            raise GitError(verb, 128, f"fatal: {self.folder} does not exist")
        command = [gitpython.Git.GIT_PYTHON_GIT_EXECUTABLE or "git", verb, *args]
        if deadline:
            command = ["timeout", "--kill-after=1", f"{deadline:g}", *command]
        try:
            with tempfile.TemporaryFile() as stream:
                stream.write(stdin)
                stream.seek(0)
                status, out, err = self._git.execute(
                    command,
                    istream=stream,
                    env=dict(env or {}),
                    with_extended_output=True,
                    with_exceptions=False,
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                )
        except gitpython.GitCommandNotFound as error:
            raise GitError(verb, 127, "fatal: git is not installed") from error
        if status == TIMED_OUT and deadline:
            raise GitError(verb, status, f"fatal: no answer within {deadline:g} seconds")
        if status != 0:
            disk = os.statvfs(self.folder)
            free = disk.f_bavail * disk.f_frsize
            raise GitError(verb, status, os.fsdecode(err) or os.fsdecode(out), bytes(out), free=free)
        return bytes(out)

    def line(self, verb: str, *args: str, **options: Any) -> str:
        """Run git and return its output as stripped text."""
        return os.fsdecode(self.run(verb, *args, **options)).strip()

    # --- repositories and objects -----------------------------------------------------------------------------------

    @classmethod
    def init(cls, folder: Path, *, bare: bool = False) -> Repository:
        """Make an empty repository without templates, so without hooks."""
        folder.mkdir(parents=True, exist_ok=True)
        repository = cls(folder)
        repository.run("init", "--quiet", "--template=", "--initial-branch=main", *(["--bare"] if bare else []))
        return repository

    def exists(self) -> bool:
        """Tell whether the folder is a repository of its own, not merely inside one."""
        try:
            found = self.line("rev-parse", "--absolute-git-dir")
        except (GitError, OSError):
            return False
        return Path(found).resolve() in {self.folder.resolve(), (self.folder / ".git").resolve()}

    def rev_parse(self, revision: str) -> str:
        """Return the object id that a revision names.

        Raises:
            GitError: It names nothing.
        """
        return self.line("rev-parse", "--verify", "--quiet", "--end-of-options", revision)

    def find(self, revision: str) -> str:
        """Return the object id that a revision names, or an empty string."""
        try:
            return self.rev_parse(revision)
        except GitError:
            return ""

    def is_ancestor(self, commit: str, of: str) -> bool:
        """Tell whether a commit is in another one's history."""
        try:
            self.run("merge-base", "--is-ancestor", commit, of)
        except GitError as error:
            if error.status != 1:
                raise
            return False
        return True

    def tree_of(self, revision: str) -> str:
        """Return the tree id of a commit."""
        return self.rev_parse(f"{revision}^{{tree}}")

    def blob_ids(self, revision: str) -> dict[str, str]:
        """Return path to blob id for every file of a tree."""
        found = {}
        for entry in self.run("ls-tree", "-r", "-z", "--full-tree", revision).split(b"\0"):
            if entry:
                meta, path = entry.split(b"\t", 1)
                found[os.fsdecode(path)] = meta.split()[2].decode()
        return found

    def cat_file(self, name: str) -> bytes:
        """Return a blob's content."""
        return self.run("cat-file", "blob", name)

    def hash_blob(self, content: bytes) -> str:
        """Store a blob and return its id."""
        return self.line("hash-object", "-w", "--stdin", "--no-filters", stdin=content)

    def write_tree(self, folder: Path) -> str:
        """Store all files below a folder, ignored ones too, and return the tree's id."""
        with self._index() as env:
            place = {**env, "GIT_WORK_TREE": str(folder.absolute())}
            place["GIT_DIR"] = self.line("rev-parse", "--absolute-git-dir")
            Repository(folder).run("add", "--all", "--force", ".", env=place)
            return self.line("write-tree", env=env)

    def write_tree_with(self, base: str, files: Mapping[str, tuple[str, str]]) -> str:
        """Return the tree of ``base`` with files put into it.

        Args:
            base: A tree or commit.
            files: Path to (mode, blob id).
        """
        with self._index() as env:
            self.run("read-tree", base, env=env)
            lines = "".join(f"{mode} {blob}\t{path}\0" for path, (mode, blob) in files.items())
            self.run("update-index", "-z", "--index-info", env=env, stdin=os.fsencode(lines))
            return self.line("write-tree", env=env)

    def commit_tree(self, tree: str, message: str, author: Signature, parents: Sequence[str] = ()) -> str:
        """Make a commit whose id depends on the arguments only; the committer's date is the author's."""
        env = {
            "GIT_AUTHOR_NAME": author.name,
            "GIT_AUTHOR_EMAIL": author.email,
            "GIT_AUTHOR_DATE": author.date,
            "GIT_COMMITTER_DATE": author.date,
        }
        links = [part for parent in parents for part in ("-p", parent)]
        return self.line("commit-tree", "--no-gpg-sign", *links, tree, env=env, stdin=message.encode())

    def update_ref(self, name: str, value: str) -> None:
        """Point a ref at an object."""
        self.run("update-ref", name, value)

    # --- other repositories -----------------------------------------------------------------------------------------

    def ls_remote(self, url: str, *patterns: str, deadline: float) -> dict[str, str]:
        """Return ref name to object id as another repository tells them."""
        found = self.line("ls-remote", "--", url, *patterns, deadline=deadline)
        return {name: value for value, name in (line.split(None, 1) for line in found.splitlines())}

    def fetch(self, source: str, *refspecs: str, depth: int = 0, deadline: float = 0) -> None:
        """Fetch exactly these refspecs or ids, no tags."""
        options = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"]
        if depth:
            options.append(f"--depth={depth}")
        self.run("fetch", *options, "--", source, *refspecs, deadline=deadline)

    # --- work tree --------------------------------------------------------------------------------------------------

    def checkout(self, branch: str, start: str) -> None:
        """Point a branch at a commit and make index and work tree exactly that."""
        self.run("checkout", "--quiet", "--force", "-B", branch, start)

    def status(self) -> list[str]:
        """Return paths that differ from HEAD, untracked ones too; what the tree itself ignores is left out."""
        return [path for _, path in self.status_codes()]

    def status_codes(self) -> list[tuple[str, str]]:
        """Return (git's two letters for index and work tree, path) of what ``status`` finds."""
        entries = self.run("status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames").split(b"\0")
        return [(entry[:2].decode(), os.fsdecode(entry[3:])) for entry in entries if entry]

    def commits(self, base: str, tip: str) -> list[Commit]:
        """Return the commits of ``base..tip``, oldest first."""
        shape = "--format=%H%x01%T%x01%P%x01%s"
        text = self.run("log", "--reverse", "--topo-order", "--no-show-signature", "-z", shape, f"{base}..{tip}")
        found = []
        for record in text.decode("utf-8", "surrogateescape").split("\0"):
            if record:
                commit, tree, parents, subject = record.split("\x01", 3)
                found.append(Commit(commit, tree, tuple(parents.split()), subject))
        return found

    def message(self, commit: str) -> str:
        """Return a commit's whole message."""
        return self.run("log", "-1", "--format=%B", commit).decode("utf-8", "surrogateescape")

    def messages(self, base: str, tip: str) -> dict[str, str]:
        """Return commit id to whole message for the commits of ``base..tip``, in one go."""
        text = self.run("log", "--no-show-signature", "-z", "--format=%H%x01%B", f"{base}..{tip}")
        records = (record.split("\x01", 1) for record in text.decode("utf-8", "surrogateescape").split("\0") if record)
        return {commit: message for commit, message in records}

    # --- patches ----------------------------------------------------------------------------------------------------

    def am(self, patches: Sequence[Path]) -> None:
        """Apply mailbox patches on HEAD, a commit each.

        Raises:
            GitError: A patch does not apply; the repository is left in the middle, as git does.
        """
        if patches:
            self.run("am", *_AM_OPTIONS, "--", *(str(path.absolute()) for path in patches))

    def am_progress(self) -> int:
        """Return the number, from 1, of the patch at which ``am`` stopped; 0 when it is not in the middle of one."""
        position = self.folder / ".git" / "rebase-apply" / "next"
        return int(position.read_text()) if position.exists() else 0

    def format_patch(self, base: str, tip: str = "HEAD") -> list[bytes]:
        """Return the commits of ``base..tip`` as mailbox patches, oldest first.

        The bytes depend on the commits alone. They are read from files: GitPython decodes what comes over a pipe.
        """
        with tempfile.TemporaryDirectory() as out:
            self.run(
                "format-patch", *_FORMAT_OPTIONS, "--numbered-files", f"--output-directory={out}", f"{base}..{tip}"
            )
            return [path.read_bytes() for path in sorted(Path(out).iterdir(), key=lambda path: int(path.stem))]

    def added_whitespace_errors(self, patch: Path) -> list[tuple[int, str]]:
        """Return (line of the patch, what) for each whitespace error that a patch adds; nothing is applied."""
        try:
            self.run("apply", "--numstat", "--whitespace=error-all", "--", str(patch.absolute()))
        except GitError as error:
            found = re.findall(r"^.*?:(\d+): (.+?)\.?$", error.stderr, flags=re.MULTILINE)
            return [(int(line), what) for line, what in found if not what.startswith(" ")]
        return []

    @contextmanager
    def _index(self) -> Iterator[dict[str, str]]:
        with tempfile.TemporaryDirectory() as scratch:
            yield {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
