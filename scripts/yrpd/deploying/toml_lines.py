"""Finds the line of a TOML file that a field is on, so that an error can point there."""

from __future__ import annotations

import re
from collections import Counter

_HEADER = re.compile(r"^\s*(\[\[?)\s*([A-Za-z0-9_.\"-]+)\s*\]\]?")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\"-]+(?:\s*\.\s*[A-Za-z0-9_\"-]+)*)\s*=")

Path = tuple[int | str, ...]


def line_of(text: str, loc: Path) -> int | None:
    """Return the line (from 1) of a field, or of the closest table around it that is written in the file.

    Args:
        text: The file.
        loc: The field's path, such as ``("hosts", 1, "address")``.

    Returns:
        ``None`` when not even the outermost table is written there.
    """
    lines = _index(text)
    wanted = loc
    while wanted:
        if wanted in lines:
            return lines[wanted]
        wanted = wanted[:-1]
    return None


def _index(text: str) -> dict[Path, int]:
    found: dict[Path, int] = {}
    seen: Counter[str] = Counter()
    table: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            name = header.group(2).replace('"', "")
            table = _table(name, header.group(1) == "[[", seen)
            found.setdefault(table, number)
            if isinstance(table[-1], int):
                found.setdefault(table[:-1], number)
        elif key := _KEY.match(line):
            parts = tuple(part.strip().strip('"') for part in key.group(1).split("."))
            found.setdefault((*table, *parts), number)
    return found


def _table(name: str, repeated: bool, seen: Counter[str]) -> Path:
    parts: list[int | str] = []
    written = name.split(".")
    for position, part in enumerate(written):
        parts.append(part)
        dotted = ".".join(written[: position + 1])
        if repeated and position == len(written) - 1:
            parts.append(seen[dotted])
            seen[dotted] += 1
        elif seen[dotted]:
            parts.append(seen[dotted] - 1)
    return tuple(parts)
