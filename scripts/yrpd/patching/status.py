"""Which side of a series is ahead: pin, series, connector sources, work tree. Reads only, and needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from yrpd.documents.series import Lock, Series
from yrpd.git import mail
from yrpd.git.repository import Repository
from yrpd.patching import apply, generate, lint, rebase, worktree
from yrpd.patching.worktree import Condition
from yrpd.project import Project
from yrpd.release import Pin


class State(StrEnum):
    """What a side is, against the series and its lock."""

    SAME = "same"
    AHEAD = "ahead"
    BEHIND = "behind"
    UNCOMMITTED = "uncommitted"
    DIVERGED = "diverged"
    BROKEN = "broken"
    MISSING = "missing"
    UNFINISHED = "unfinished"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Side:
    """One place in which the series lives.

    Attributes:
        name: ``pin``, ``series``, ``connector_src`` or ``work tree``; ``rebase`` while one is under way.
        state: What it is.
        why: One clause for people.
        next_command: What this side asks for; empty when nothing.
    """

    name: str
    state: State
    why: str
    next_command: str = ""

    def document(self) -> dict[str, Any]:
        """Return the side for ``--json``."""
        return {"name": self.name, "state": self.state.value, "why": self.why}


@dataclass(frozen=True)
class Standing:
    """All sides together.

    Attributes:
        sides: Every side, in the same order.
    """

    sides: tuple[Side, ...]

    @property
    def _decisive(self) -> Side | None:
        """The first side that asks for something: what is broken, then what only exists in one place, then the rest."""
        order = (
            State.UNFINISHED,
            State.BROKEN,
            State.MISSING,
            State.DIVERGED,
            State.UNCOMMITTED,
            State.AHEAD,
            State.BEHIND,
        )
        asking = [side for side in self.sides if side.next_command]
        return min(asking, key=lambda side: order.index(side.state), default=None)

    @property
    def state(self) -> str:
        """``in step``, or the deciding side and what it is, such as ``connector_src ahead``."""
        side = self._decisive
        return f"{side.name} {side.state.value}" if side else "in step"

    @property
    def next_command(self) -> str:
        """The one command that comes next; empty when there is nothing to do."""
        side = self._decisive
        return side.next_command if side else ""

    def document(self, pin: str) -> dict[str, Any]:
        """Return the standing for ``--json``."""
        sides = [side.document() for side in self.sides]
        return {"pin": pin, "state": self.state, "sides": sides, "next": self.next_command}


def look(project: Project, name: str, pin: Pin) -> Standing:
    """Return where the sides of a pin's series stand."""
    files = lint.find(project, name, pin)
    sides = [*_files(files)]
    sides.append(_connector(project, name, files.series))
    sides.append(_tree(project, name, files.lock))
    for begun in rebase.under_way(project):
        if name in (begun.origin, begun.target):
            sides.append(_rebase(begun))
    return Standing(tuple(sides))


def _rebase(begun: rebase.Rebase) -> Side:
    at = begun.stopped_at
    told = f"from {begun.origin} to {begun.target}{f', stopped at {at}' if at else ''}"
    following = f"invoke patch.continue --to {begun.target}   (or, to give it up: invoke patch.abort)"
    return Side("rebase", State.UNFINISHED, told, following)


def _files(files: lint.Files) -> Iterator[Side]:
    """Yield pin and series; the lock is between them."""
    about_pin = [finding for finding in files.findings if finding.id == "pin"]
    others = [finding for finding in files.findings if finding.id != "pin"]
    if files.lock is None:
        yield Side("pin", State.UNKNOWN, "no lock to compare it with")
    elif about_pin:
        yield Side("pin", State.DIVERGED, _first(about_pin), about_pin[0].next_command)
    else:
        yield Side("pin", State.SAME, f"the lock has tree {files.lock.pin.tree[:12]} too")
    if files.series is None:
        yield Side("series", State.MISSING, others[0].message, others[0].next_command)
    elif others:
        yield Side("series", State.BROKEN, _first(others), others[0].next_command)
    else:
        yield Side("series", State.SAME, f"{len(files.series.names)} patches, as locked")


def _first(findings: Sequence[lint.Finding]) -> str:
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return f"{findings[0].where}: {findings[0].message}{more}"


def _connector(project: Project, name: str, series: Series | None) -> Side:
    following = f"invoke patch.export --pin {name} patch --pin {name}"
    if series is None:
        return Side("connector_src", State.UNKNOWN, "no series to compare it with")
    drifts = [drift.sentence for drift in lint.connector_drift(project, series)]
    generated = generate.generated_name(project)
    if not drifts and generated in series.names:
        body = mail.parse_message(series.read(generated)).body
        if body.split() != generate.message(project).partition("\n")[2].split():
            drifts = [f"patches/{generate.MESSAGE} changed since {generated} was generated"]
    if drifts:
        more = f" (and {len(drifts) - 1} more)" if len(drifts) > 1 else ""
        return Side("connector_src", State.AHEAD, f"{drifts[0]}{more}", following)
    return Side("connector_src", State.SAME, f"{generated} adds exactly this")


def _tree(project: Project, name: str, lock: Lock | None) -> Side:
    folder = apply.current_tree(project, name)
    make = f"invoke patch --pin {name}" if lock is not None else ""
    if folder is None:
        return Side("work tree", State.BEHIND, "nothing was applied yet", make)
    shown = folder.relative_to(project.root).as_posix()
    found = worktree.inspect(folder)
    if found.condition is Condition.MISSING:
        return Side("work tree", State.BEHIND, f"{shown} is gone", make)
    made_from = worktree.origin(folder)
    if found.condition is Condition.EDITED:
        return _edited(
            project, name, shown, found, generate.hand_made(project, made_from) == generate.hand_made(project, lock)
        )
    if lock is None or made_from is None:
        return Side("work tree", State.UNKNOWN, f"no lock to compare {shown} with", make)
    reasons = apply.changes(made_from, lock)
    if not reasons and folder.name == lock.folder and found.condition is Condition.AS_MADE:
        return Side("work tree", State.SAME, f"{shown} is the lock's tree {lock.end.tree[:12]}")
    told = "; ".join(reasons) or f"the commits of {shown} were exported"
    return Side("work tree", State.BEHIND, told, make)


def _edited(project: Project, name: str, shown: str, found: worktree.TreeState, same: bool) -> Side:
    export = f"invoke patch.export --pin {name} patch --pin {name}"
    if not found.ahead:
        commit = f"git -C {shown} add -A && git -C {shown} commit   (then {export})"
        return Side("work tree", State.UNCOMMITTED, f"{shown}: {found.why}", commit)
    if not same:
        told = f"{shown} has commits of its own, and the series changed since it was made"
        return Side("work tree", State.DIVERGED, told, f"git diff patches   (to start over: {_discard(name)})")
    count = _commits_ahead(project.root / shown)
    return Side("work tree", State.AHEAD, f"{shown}: {found.why}{count}", export)


def _discard(name: str) -> str:
    return f"invoke patch --pin {name} --discard"


def _commits_ahead(folder: Path) -> str:
    number = len(Repository(folder).commits(worktree.END, "HEAD"))
    return f" ({number} commit{'s' if number != 1 else ''} more)"
