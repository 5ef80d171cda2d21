r"""Git's ids of files and trees, computed without git: a release folder proves its tree on any machine.

Format: git's object format; a blob's id is over ``blob <size>\0`` and its bytes, a tree's over its sorted entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

EXECUTABLE, REGULAR, LINK, FOLDER = "100755", "100644", "120000", "40000"


@dataclass(frozen=True)
class TreeFile:
    """One file of a tree: git's mode and the id of its content."""

    mode: str
    blob: str


def blob_id(data: bytes) -> str:
    """Return the id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


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


def render_listing(files: Mapping[str, TreeFile]) -> str:
    """Return the listing's text; the inverse of `parse_listing`."""
    return "".join(f"{one.mode} blob {one.blob}\t{path}\n" for path, one in sorted(files.items()))


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
