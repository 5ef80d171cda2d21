"""Conflicts as data: where git left its markers, and what each side did there. Pure; nothing here runs git."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

_OURS, _BASE, _THEIRS, _END = "<<<<<<< ", "||||||| ", "=======", ">>>>>>> "


@dataclass(frozen=True)
class Region:
    """One conflict in a file, as git's ``diff3`` style marks it.

    Attributes:
        first: Line of the opening marker, from 1.
        last: Line of the closing marker.
        upstream: What the new upstream did to the lines that the patch was made on, as ``-`` and ``+`` lines.
        patch: What the patch wants to do to them.
    """

    first: int
    last: int
    upstream: tuple[str, ...]
    patch: tuple[str, ...]


@dataclass(frozen=True)
class Conflict:
    """A file in which a patch does not fit.

    Attributes:
        patch: The patch's file name.
        file: The file in the patched tree.
        kind: ``content``, ``removed upstream``, ``removed by the patch`` or ``added by both``.
        regions: The conflicts in it; empty where there is nothing to mark.
    """

    patch: str
    file: str
    kind: str
    regions: tuple[Region, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the conflict for ``--json``."""
        regions = [
            {"lines": [region.first, region.last], "upstream": list(region.upstream), "patch": list(region.patch)}
            for region in self.regions
        ]
        return {"patch": self.patch, "file": self.file, "kind": self.kind, "regions": regions}


class _Part(Enum):
    OUTSIDE = auto()
    OURS = auto()
    BASE = auto()
    THEIRS = auto()


def regions(text: str) -> tuple[Region, ...]:
    r"""Return the conflicts that are marked in a file's text.

    >>> [region.upstream for region in regions("a\n<<<<<<< x\nnew\n||||||| b\nold\n=======\nmine\n>>>>>>> y\n")]
    [('-old', '+new')]
    """
    found: list[Region] = []
    part, first = _Part.OUTSIDE, 0
    lines: dict[_Part, list[str]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if part is _Part.OUTSIDE:
            if line.startswith(_OURS):
                part, first, lines = _Part.OURS, number, {_Part.OURS: [], _Part.BASE: [], _Part.THEIRS: []}
        elif part is _Part.OURS and line.startswith(_BASE):
            part = _Part.BASE
        elif part in (_Part.OURS, _Part.BASE) and line.rstrip("\r") == _THEIRS:
            part = _Part.THEIRS
        elif part is _Part.THEIRS and line.startswith(_END):
            base = lines[_Part.BASE]
            found.append(Region(first, number, changes(base, lines[_Part.OURS]), changes(base, lines[_Part.THEIRS])))
            part = _Part.OUTSIDE
        else:
            lines[part].append(line)
    return tuple(found)


def changes(before: Sequence[str], after: Sequence[str]) -> tuple[str, ...]:
    """Return the lines that went and came, marked ``-`` and ``+``, without context."""
    marked = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]  # after its two lines of file names
    return tuple(line for line in marked if line[0] in "-+")


def kind(stages: frozenset[int]) -> str:
    """Return what sort of conflict git's index stages mean (1: before the patch, 2: upstream's, 3: the patch's)."""
    if 2 not in stages:
        return "removed upstream"
    if 3 not in stages:
        return "removed by the patch"
    return "content" if 1 in stages else "added by both"
