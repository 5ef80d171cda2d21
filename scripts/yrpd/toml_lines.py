"""Finds the line of a TOML file that a field is on, so that an error can point there."""

from __future__ import annotations

import re
from collections import Counter

_HEADER = re.compile(r"^\s*(\[\[?)\s*([A-Za-z0-9_.\"-]+)\s*\]\]?")
_PART = re.compile(r'"([^"]*)"|([^."\s]+)')
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
    seen: Counter[tuple[str, ...]] = Counter()
    table: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _table(_parts(header.group(2)), header.group(1) == "[[", seen)
            found.setdefault(table, number)
            if isinstance(table[-1], int):
                found.setdefault(table[:-1], number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *_parts(key.group(1))), number)
    return found


def _parts(name: str) -> tuple[str, ...]:
    return tuple(quoted or bare for quoted, bare in _PART.findall(name))


def _table(written: tuple[str, ...], repeated: bool, seen: Counter[tuple[str, ...]]) -> Path:
    parts: list[int | str] = []
    for position, part in enumerate(written):
        parts.append(part)
        dotted = written[: position + 1]
        if repeated and position == len(written) - 1:
            parts.append(seen[dotted])
            seen[dotted] += 1
        elif seen[dotted]:
            parts.append(seen[dotted] - 1)
    return tuple(parts)
