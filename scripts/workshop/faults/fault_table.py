"""The table of faults, as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = (
    "| fault | sent | right | 503, Retry-After | no connection | cut off | wrong | hung | other error | left behind "
    "| slowest right answer, s | fault, s | mending, s | shared memory, MB |"
)
BEGIN, END = "<!-- table: invoke lab.faults -->", "<!-- end of table -->"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table, with a line of sums."""
    lines = [HEAD, "|---" + "|---:" * (HEAD.count("|") - 2) + "|"]
    counts = ("sent", "right", "refused", "unreached", "cut", "wrong", "hung", "unclean")
    for row in rows:
        cells = [row["fault"], *(row[name] for name in counts), len(row["left"])]
        cells += [row["slowest_right_s"], row["fault_s"], row["mending_s"]]
        cells.append(" → ".join(map(str, row.get("shared_mb", []))))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    sums = [sum(row[name] for row in rows) for name in counts]
    lines.append(f"| **all** | {' | '.join(map(str, [*sums, sum(len(row['left']) for row in rows)]))} | | | | |")
    return "\n".join(lines) + "\n"


def inserted(document: str, table: str) -> str:
    """Return a Markdown document with the table between its marks exchanged.

    Raises:
        ValueError: It has no such marks.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{BEGIN} and {END} are missing")
    return f"{before}{BEGIN}\n{table}{END}{after}"
