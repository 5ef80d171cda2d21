"""Which patches fit which upstream states: merged in the object store alone, no file is checked out.

Each patch is laid on top of those before it that fit. One that does not is left out, so that one conflict does not hide
what comes after it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.table import Table

from yrpd.documents.series import Series, load_lock, load_series, require_locked
from yrpd.errors import YrpdError
from yrpd.git.repository import GitError, Repository
from yrpd.patching import apply, merging
from yrpd.patching.commands import failures
from yrpd.patching.source import BASE_AUTHOR, Source, ensure_source
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter


class Fit(StrEnum):
    """How a patch goes on an upstream state."""

    CLEAN = "clean"
    MERGED = "merged"
    CONFLICT = "conflict"
    CONTAINED = "contained"


@dataclass(frozen=True)
class Cell:
    """One patch on one upstream state.

    Attributes:
        file: The patch.
        fit: ``clean`` (as it is), ``merged`` (three-way), ``conflict``, or ``contained`` (upstream has it).
        files: The files in conflict.
    """

    file: str
    fit: Fit
    files: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the cell for ``--json``."""
        return {"file": self.file, "fit": self.fit.value, "conflicts": list(self.files)}

    def __str__(self) -> str:
        """Return the cell for people."""
        return (
            f"{self.fit.value}: {len(self.files)} files" if len(self.files) > 1 else "\n".join([self.fit, *self.files])
        )


def of(project: Project, reporter: Reporter, name: str, tags: Sequence[str]) -> dict[str, Any]:
    """Try the series of a pin on upstream states and print the table.

    Returns:
        ``{pin, tags: {tag: {fits, patches}}}``; a tag whose source is out of reach has ``error`` instead.
    """
    upstream = load_release(project.release_file).upstream
    series = load_series(project.patches(name))
    require_locked(series, load_lock(series.folder), name, upstream[name])
    sources: dict[str, Source] = {}
    errors: dict[str, str] = {}
    for tag in dict.fromkeys((name, *tags)):
        try:
            with failures(), apply.exclusive(project, tag):
                sources[tag] = ensure_source(project, tag, upstream[tag], reporter)
        except YrpdError as error:
            if tag == name:
                raise
            errors[tag] = error.message
    with failures(), tempfile.TemporaryDirectory() as scratch:
        repository = Repository.init(Path(scratch) / "matrix.git", bare=True)
        merging.borrow(repository, *(source.repository for source in sources.values()))
        steps = list(_steps(repository, sources[name], series))
        found = {tag: _column(repository, sources[tag], series, steps) for tag in tags if tag in sources}
    reporter.render(_table(name, series, found))
    for tag, message in errors.items():
        reporter.say(f"{tag}: not tried: {message}")
    return {"pin": name, "tags": {tag: _document(found.get(tag), errors.get(tag, "")) for tag in tags}}


def _steps(repository: Repository, source: Source, series: Series) -> Iterator[tuple[str, str]]:
    """Yield the trees before and after each patch on its own pin."""
    tree = source.tree
    for file in series.names:
        after = repository.tree_with_patch(tree, series.path(file))
        yield tree, after
        tree = after


def _column(repository: Repository, source: Source, series: Series, steps: Sequence[tuple[str, str]]) -> list[Cell]:
    tree = source.tree
    cells = []
    for file, (before, after) in zip(series.names, steps, strict=True):
        cell, tree = _cell(repository, file, series.path(file), tree, before, after)
        cells.append(cell)
    return cells


def _cell(repository: Repository, file: str, patch: Path, tree: str, before: str, after: str) -> tuple[Cell, str]:
    try:
        return Cell(file, Fit.CLEAN), repository.tree_with_patch(tree, patch)
    except GitError as error:
        if error.disk_full:
            raise
    base = repository.commit_tree(before, "base\n", BASE_AUTHOR)
    ours = repository.commit_tree(tree, "ours\n", BASE_AUTHOR, [base])
    theirs = repository.commit_tree(after, "theirs\n", BASE_AUTHOR, [base])
    merged, conflicts = merging.merge_trees(repository, ours, theirs)
    if conflicts:
        return Cell(file, Fit.CONFLICT, conflicts), tree
    return Cell(file, Fit.CONTAINED if merged == tree else Fit.MERGED), merged


def _document(cells: Sequence[Cell] | None, error: str) -> dict[str, Any]:
    if cells is None:
        return {"error": error}
    fits = all(cell.fit is not Fit.CONFLICT for cell in cells)
    return {"fits": fits, "patches": [cell.document() for cell in cells]}


def _table(name: str, series: Series, found: dict[str, list[Cell]]) -> Table:
    table = Table(title=f"the series of {name}", show_lines=True)
    for column in ("patch", *found):
        table.add_column(column, overflow="fold")
    for number, file in enumerate(series.names):
        table.add_row(file.removesuffix(".patch"), *(str(cells[number]) for cells in found.values()))
    return table
