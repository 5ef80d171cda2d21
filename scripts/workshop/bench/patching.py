"""``invoke patch.figures``: how long the patch commands take, beside bare git on the same series in the same run."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from yrpd.documents.series import Series, load_series
from yrpd.errors import ConfigurationError, EnvironmentFailure
from yrpd.git.repository import Repository
from yrpd.patching import apply, commands, worktree
from yrpd.patching.source import BASE_REF, Source, ensure_source, source_folder
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter

NO_OP_SECONDS = 0.5
COLD_RATIO = 1.5
ROUNDS = 3


@dataclass(frozen=True)
class Figure:
    """One measured command.

    Attributes:
        name: What was run.
        seconds: The median of the rounds.
        bare: The median of bare git doing the same; ``None`` where git has nothing like it.
        target: The goal, for people; empty when there is none.
        met: Whether the goal was met; ``None`` when there is none.
    """

    name: str
    seconds: float
    bare: float | None = None
    target: str = ""
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """How many times bare git's time."""
        return self.seconds / self.bare if self.bare else None

    def document(self) -> dict[str, Any]:
        """Return the figure for ``--json``."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "bare_git_seconds": round(self.bare, 3) if self.bare else None,
            "ratio": round(self.ratio, 2) if self.ratio else None,
            "target": self.target,
            "met": self.met,
        }


def measure(
    project: Project, reporter: Reporter, pin: str = "", rounds: int = ROUNDS, dry_run: bool = False
) -> dict[str, Any]:
    """Measure in a copy of the project's inputs; nothing of the project is changed.

    Args:
        project: The checkout.
        reporter: Gets the table.
        pin: A pin's name; empty means the default one.
        rounds: How often each is run; the median counts.
        dry_run: Say what would be measured.

    Returns:
        ``{pin, patches, rounds, figures}``.

    Raises:
        ConfigurationError: There is no such pin, or no round.
    """
    if rounds < 1:
        raise ConfigurationError(f"{rounds} rounds measure nothing.", next_command="invoke patch.figures --rounds 1")
    name, wanted = load_release(project.release_file).pin(pin)
    series = load_series(project.patches(name))
    if dry_run:
        reporter.say(f"would measure the {len(series.names)} patches of {name}, {rounds} rounds, in a temporary folder")
        return {"pin": name, "patches": len(series.names), "rounds": rounds, "figures": [], "dry_run": True}
    with commands.failures(), apply.exclusive(project, name):
        source = ensure_source(project, name, wanted, reporter)
    with (
        commands.failures(),
        tempfile.TemporaryDirectory() as scratch,
        reporter.step(f"measuring {len(series.names)} patches of {name}, {rounds} rounds"),
    ):
        figures = _figures(project, name, source, series, rounds, Path(scratch))
    reporter.render(_table(name, figures))
    documents = [figure.document() for figure in figures]
    return {"pin": name, "patches": len(series.names), "rounds": rounds, "figures": documents, "dry_run": False}


def _figures(project: Project, name: str, source: Source, series: Series, rounds: int, scratch: Path) -> list[Figure]:
    copy = _copy(project, name, scratch / "project")
    quiet = Reporter(as_json=True)
    quiet.console.quiet = True
    options: dict[str, Any] = {"project": copy, "reporter": quiet, "pin": name}
    bare, out = scratch / "bare", f"--output-directory={scratch / 'out'}"
    cold, bare_cold, bare_export = [], [], []
    for _ in range(rounds):  # by turns, so that both have the machine's good and bad moments
        _forget(copy, name)
        cold.append(_seconds(lambda: commands.patch(**options)))
        shutil.rmtree(bare, ignore_errors=True)
        bare_cold.append(_seconds(lambda: _bare_apply(bare, source, series)))
        bare_export.append(_seconds(lambda: Repository(bare).run("format-patch", "--quiet", out, worktree.BASE)))
    cold_time, bare_time = statistics.median(cold), statistics.median(bare_cold)
    no_op = _median(rounds, lambda: commands.patch(**options))
    command = _median(rounds, lambda: _as_command(project, name))
    return [
        Figure("cold apply", cold_time, bare_time, f"{COLD_RATIO} x bare git", cold_time <= COLD_RATIO * bare_time),
        Figure("no-op apply", no_op, None, f"{NO_OP_SECONDS} s", no_op < NO_OP_SECONDS),
        Figure("no-op apply, as a command", command, None, f"{NO_OP_SECONDS} s", command < NO_OP_SECONDS),
        Figure("check", _median(rounds, lambda: commands.check(**options))),
        Figure("export", _median(rounds, lambda: commands.export(**options)), statistics.median(bare_export)),
    ]


def _copy(project: Project, name: str, root: Path) -> Project:
    copy = Project(root)
    root.mkdir(parents=True)
    shutil.copy(project.release_file, root)
    shutil.copytree(project.root / "patches", root / "patches")
    shutil.copytree(project.connector_source, copy.connector_source)
    shutil.copytree(source_folder(project, name), source_folder(copy, name))
    if project.cache.exists() and not copy.cache.exists():
        copy.cache.parent.mkdir(parents=True, exist_ok=True)
        copy.cache.symlink_to(project.cache.resolve())
    return copy


def _forget(project: Project, name: str) -> None:
    shutil.rmtree(apply.trees(project, name), ignore_errors=True)
    project.state_file(name).unlink(missing_ok=True)


def _bare_apply(folder: Path, source: Source, series: Series) -> None:
    """Do what a script would: a checkout of the base, and ``git am``."""
    repository = Repository.init(folder)
    repository.fetch(str(source.repository.folder), f"{BASE_REF}:{worktree.BASE}")
    repository.checkout("series", worktree.BASE)
    repository.run("am", "--quiet", *(str(series.path(file)) for file in series.names))


def _as_command(project: Project, name: str) -> None:
    """Run the whole command, the interpreter's start too; a plan that is printed costs what a no-op costs."""
    command = [sys.executable, "-m", "invoke", "patch", "--dry-run", "--pin", name]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentFailure(
            f"invoke patch --dry-run ended with {done.returncode}.",
            next_command=f"invoke patch --pin {name}",
            detail=done.stderr,
        )


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _median(rounds: int, action: Callable[[], object]) -> float:
    return statistics.median(_seconds(action) for _ in range(rounds))


def _table(name: str, figures: list[Figure]) -> Table:
    table = Table("", "seconds", "bare git", "times", "goal", "met", title=f"patch commands, {name}")
    for figure in figures:
        bare = f"{figure.bare:.3f}" if figure.bare else ""
        ratio = f"{figure.ratio:.2f}" if figure.ratio else ""
        met = "" if figure.met is None else "yes" if figure.met else "no"
        table.add_row(figure.name, f"{figure.seconds:.3f}", bare, ratio, figure.target, met)
    return table
