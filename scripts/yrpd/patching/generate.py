"""The first patch of every series, generated from ``connector_src/``: nobody edits it by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yrpd.documents.series import Lock
from yrpd.errors import ConfigurationError
from yrpd.git.mail import file_name
from yrpd.git.repository import Repository, Signature, blob_id
from yrpd.patching.source import IDENTITY
from yrpd.project import Project

DESTINATION = "vllm_ascend/distributed/yuanrong"
MESSAGE = "connector-message.txt"
# Fixed, so that the patch's bytes depend on the sources alone.
AUTHOR = Signature(*IDENTITY, "2026-01-02T00:00:00+0000")
_LEFT_OUT = ("__pycache__",)
_LEFT_OUT_ENDINGS = (".pyc", ".pyo", ".orig", ".rej", "~")


@dataclass(frozen=True)
class ConnectorFile:
    """A file of the connector package.

    Attributes:
        path: Where it is in the patched tree.
        source: Where it is in this project.
        mode: Git's file mode.
        content: Its bytes.
    """

    path: str
    source: Path
    mode: str
    content: bytes

    @property
    def blob(self) -> str:
        """Git's id for the content."""
        return blob_id(self.content)


def connector_files(folder: Path) -> list[ConnectorFile]:
    """Return the connector package's files, sorted; caches, editors' leftovers and hidden files are left out.

    Raises:
        ConfigurationError: There are none.
    """
    found = [_connector_file(folder, path) for path in sorted(folder.rglob("*")) if _belongs(folder, path)]
    if not any(file.path == f"{DESTINATION}/__init__.py" for file in found):
        raise ConfigurationError(
            f"{folder.parent.name}/{folder.name} holds no package (no __init__.py), so there is nothing to export.",
            next_command=f"git checkout -- {folder.parent.name}/{folder.name}",
        )
    return found


def message(project: Project) -> str:
    """Return the generated patch's commit message.

    Raises:
        ConfigurationError: Its file is missing.
    """
    path = project.patches(MESSAGE)
    try:
        return path.read_text(encoding="utf-8").strip() + "\n"
    except FileNotFoundError as error:
        message = f"patches/{MESSAGE}, the message of the generated patch, does not exist."
        raise ConfigurationError(message, next_command=f"git checkout -- patches/{MESSAGE}") from error


def subject(text: str) -> str:
    """Return a message's first line."""
    return text.splitlines()[0].strip()


def generated_name(project: Project) -> str:
    """Return the generated patch's file name."""
    return file_name(subject(message(project)))


def hand_made(project: Project, lock: Lock | None) -> list[tuple[str, str]]:
    """Return (file, sha256) of a lock's other patches, those that come from commits."""
    generated = generated_name(project)
    return [(entry.file, entry.sha256) for entry in lock.patches if entry.file != generated] if lock else []


def commit(repository: Repository, base: str, project: Project) -> str:
    """Return the commit that adds the connector package.

    Args:
        repository: Holds ``base``; gets the new objects.
        base: The commit under the series.
        project: Has the connector's sources and the message.
    """
    files: Mapping[str, tuple[str, str]] = {
        file.path: (file.mode, repository.hash_blob(file.content)) for file in connector_files(project.connector_source)
    }
    tree = repository.write_tree_with(base, files)
    return repository.commit_tree(tree, message(project), AUTHOR, [base])


def generate(repository: Repository, base: str, project: Project) -> bytes:
    """Return the generated patch: that commit, as ``git format-patch`` writes it."""
    return repository.format_patch(base, commit(repository, base, project))[0]


def _belongs(folder: Path, path: Path) -> bool:
    parts = path.relative_to(folder).parts
    return path.is_file() and not any(
        part in _LEFT_OUT or part.startswith(".") or part.endswith(_LEFT_OUT_ENDINGS) for part in parts
    )


def _connector_file(folder: Path, path: Path) -> ConnectorFile:
    mode = "100755" if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else "100644"
    return ConnectorFile(f"{DESTINATION}/{path.relative_to(folder).as_posix()}", path, mode, path.read_bytes())
