"""The one place that prints: steps with their seconds, progress on long work, one JSON document when asked for.

People read stderr, machines read stdout: with ``--json`` stdout carries exactly one document.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from yrpd.tables import fitted

#: Moves a progress bar forward by so many bytes or items.
Advance = Callable[[float], None]


class Reporter:
    """Says what is being done.

    Args:
        as_json: Keep stdout for one JSON document; everything else goes to stderr.
        verbose: Show details that are otherwise only in log files.
    """

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        # Names of files and images hold brackets and colons: nothing that is printed is markup.
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def say(self, text: str) -> None:
        """Print one line of plain text (no markup is interpreted)."""
        self.console.print(text, markup=False)

    def detail(self, text: str) -> None:
        """Print a line only with ``--verbose``."""
        if self.verbose:
            self.console.print(f"    {text}", style="dim", markup=False)

    def render(self, renderable: Any) -> None:
        """Print a rich renderable; a table so that it can be read in the width that there is (80 off a terminal)."""
        shown = fitted(renderable, self.console) if isinstance(renderable, Table) else renderable
        self.console.print(shown, soft_wrap=False)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step, then tick it with its seconds, or cross it out when it raises."""
        self.console.print(f"--> {title}", style="bold", markup=False)
        start = time.monotonic()
        try:
            yield
        except BaseException:
            self.console.print(f" ✗  {title} ({time.monotonic() - start:.1f} s)", style="red", markup=False)
            raise
        self.console.print(f" ✓  {title} ({time.monotonic() - start:.1f} s)", style="green", markup=False)

    @contextmanager
    def progress(self, title: str, total: float | None, *, in_bytes: bool = False) -> Iterator[Advance]:
        """Show a bar on a terminal; elsewhere the step's own lines are enough.

        Args:
            title: What is moving.
            total: Bytes or items; ``None`` when unknown.
            in_bytes: Format the amounts as bytes.
        """
        from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = [TextColumn("    {task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()]
        if in_bytes:
            columns.insert(3, DownloadColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(title, total=total)
            yield lambda amount: bar.update(task, advance=amount)

    def result(self, document: dict[str, Any]) -> None:
        """Print the task's JSON document on stdout when ``--json`` was given."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, sort_keys=True) + "\n")
            sys.stdout.flush()
