r"""Git's ids of files and trees, computed without git: a release folder proves its tree on any machine.

Format: git's object format; a blob's id is over ``blob <size>\0`` and its bytes, a tree's over its sorted entries.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, cast

from yrpd.git.repository import blob_id

EXECUTABLE, REGULAR, LINK, FOLDER = "100755", "100644", "120000", "40000"


@dataclass(frozen=True)
class TreeFile:
    """One file of a tree: git's mode and the id of its content."""

    mode: str
    blob: str


def parse_listing(text: str) -> dict[str, TreeFile]:
    """Return path to file of what ``git ls-tree -r -z`` prints, one entry a line instead of NUL.

    Raises:
        ValueError: A line is none of its.
    """
    files = {}
    for line in text.splitlines():
        head, tab, path = line.partition("\t")
        mode, kind, blob = head.split(" ")
        if not tab or kind != "blob":
            raise ValueError(f"not an entry of a file: {line!r}")
        files[path] = TreeFile(mode, blob)
    return files


def walk_files(tar: tarfile.TarFile, folder: str) -> Iterator[tuple[str, TreeFile]]:
    """Yield the files below a folder as git would see them, by their path relative to it.

    Args:
        tar: The archive, read as a stream.
        folder: The folder, relative to the archive's root.
    """
    seen: dict[str, str] = {}
    for info in tar:
        path = info.name.removeprefix("./").strip("/")
        if not path.startswith(f"{folder}/"):
            continue
        name = path[len(folder) + 1 :]
        if info.issym():
            yield name, TreeFile(LINK, blob_id(info.linkname.encode()))
        elif info.isfile():
            seen[path] = blob_id(cast(IO[bytes], tar.extractfile(info)).read())
            yield name, TreeFile(EXECUTABLE if info.mode & 0o100 else REGULAR, seen[path])
        elif info.islnk() and info.linkname.strip("/") in seen:
            seen[path] = seen[info.linkname.strip("/")]
            yield name, TreeFile(EXECUTABLE if info.mode & 0o100 else REGULAR, seen[path])


def tree_id(files: Mapping[str, TreeFile]) -> str:
    """Return the id of the tree with these files, subfolders and all."""
    return _tree([(path.encode(), one) for path, one in files.items()])


def _tree(files: Iterable[tuple[bytes, TreeFile]]) -> str:
    folders: dict[bytes, list[tuple[bytes, TreeFile]]] = {}
    entries: list[tuple[bytes, str, bytes, str]] = []
    for path, one in files:
        head, slash, rest = path.partition(b"/")
        if slash:
            folders.setdefault(head, []).append((rest, one))
        else:
            entries.append((head, one.mode, head, one.blob))
    # Git sorts a folder as if its name ended with a slash.
    entries += [(name + b"/", FOLDER, name, _tree(inside)) for name, inside in folders.items()]
    body = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(one) for _, mode, name, one in sorted(entries))
    return hashlib.sha1(b"tree %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
