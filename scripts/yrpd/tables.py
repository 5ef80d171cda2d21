"""Tables that fit: nothing is cut, and words stay whole, also in the 80 columns of a pipe or a log."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def fitted(table: Table, console: Console) -> RenderableType:
    """Return what shows the table in the console's width without losing a character.

    A table whose longest words do not fit side by side becomes one short list a row: the first cell is its heading,
    and each other cell stands beside its column's name. Only a single word wider than the console is folded.

    Args:
        table: Any table of plain cells; its columns are told to fold, never to crop.
        console: Where it is printed, with neither markup nor emoji, which would eat `[0]` and `:a:` of names.
    """
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", False
    if not console.is_terminal:
        table.box = SIMPLE_HEAD  # frames of a log cost three columns a cell and are in grep's way
    options = console.options.update(no_wrap=False, overflow="fold")
    words = Measurement.get(console, options.update(width=10_000), table).minimum
    return table if words <= options.max_width else _as_lists(table)


def _as_lists(table: Table) -> RenderableType:
    headings = [column.header for column in table.columns]
    parts: list[RenderableType] = [] if table.title is None else [_styled(table.title, "italic"), ""]
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(overflow="fold", style="dim")
        row.add_column(overflow="fold")
        for heading, cell in zip(headings[1:], others, strict=True):
            if cell not in ("", None):
                row.add_row(heading, cell)
        parts += [_styled(first, "bold"), Padding(row, (0, 0, 0, 2))]
    return Group(*parts)


def _styled(cell: RenderableType, style: str) -> RenderableType:
    return Text(cell, style=style, overflow="fold") if isinstance(cell, str) else cell
