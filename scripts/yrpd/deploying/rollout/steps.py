"""A rollout as data: which steps, in which order, and what of them stands or falls together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from yrpd.deploying.reconcile import Change
from yrpd.deploying.spec import ENGINES, START_ORDER, WAVES

Verb = Literal["drain", "set aside", "start", "await", "await choice of", "update", "remove"]
Key = tuple[str, str]

STORES, FRONT = ("etcd", "worker"), ("router", "endpoint")
ASIDE = "-before"  # what a replaced container is called until the new one answers


@dataclass(frozen=True)
class Step:
    """One thing that is done to one container, and undone by one: a start by an end, what is set aside by its return.

    Attributes:
        verb: What: let it finish its requests, stop it and keep it under another name, create and start it, wait until
            it is ready, wait until the front chooses it, change it while it runs, remove it.
        change: What happens to the container as a whole.
    """

    verb: Verb
    change: Change

    def __str__(self) -> str:
        """Return the step as it is printed."""
        return f"{self.verb} {self.change.title}"


Batch = tuple[Step, ...]


@dataclass(frozen=True)
class Unit:
    """Steps that stand or fall together.

    Attributes:
        batches: In order; the steps of one batch do not depend on each other.
        apart: Every container stands or falls by itself.
    """

    batches: tuple[Batch, ...]
    apart: bool = False


def steps(changes: Sequence[Change], serving: Set[Key]) -> tuple[Unit, ...]:
    """Return what is to be done, in order.

    While a P or D is replaced the others of its role serve, and P and D serve while the DataSystem is replaced. D go
    first: a P of the old kind can feed a D of the new one, and not the other way round. What is new is ready before the
    front learns of it, and what goes leaves the front first.

    Args:
        changes: What was decided.
        serving: Hosts and names of the containers that answer now.
    """
    left = {(each.host, each.name.removesuffix(ASIDE)): each for each in changes if is_leftover(each)}
    changes = [each for each in changes if not is_leftover(each)]
    known = {each.key for each in changes}
    abandoned = tuple(Step("remove", each) for key, each in left.items() if key not in known)
    touched = [each for each in changes if each.action not in ("keep", "update")]
    updates = [each for each in changes if each.action == "update"]
    kept = [each for each in changes if each.action in ("keep", "update")]
    units = [Unit((abandoned,), apart=True)]
    if at_once(touched, serving):
        units += [Unit((*_out(touched), *_in(touched), _each("update", updates)))]
    else:
        in_front = [each for each in updates if each.role in FRONT]
        units += [Unit((_each("update", (each for each in updates if each.role not in FRONT)),), apart=True)]
        units += _one_by_one([each for each in touched if each.action != "remove"], serving, in_front)
        going = [each for each in touched if each.action == "remove"]
        units += [Unit(tuple(_out([each]))) for each in sorted(going, key=_position, reverse=True)]
    units += [Unit((_each("await", sorted(kept, key=_position)),), apart=True)]
    whole = [Unit(tuple(batch for batch in unit.batches if batch), unit.apart) for unit in units]
    return tuple(unit for unit in whole if unit.batches)


def at_once(touched: Sequence[Change], serving: Set[Key]) -> bool:
    """Return whether all that changes has to stop before anything new starts.

    So it is where nothing serves, where what comes needs the ports of what goes, where a P or D changes its port, and
    where P, D and the front change together in more than their image: clients would meet some of each.
    """
    engines = [each for each in touched if each.role in ENGINES]
    front = [each for each in touched if each.role in FRONT]
    freed = {(each.host, port) for each in touched if each.action == "remove" for port in each.ports}
    taken = {(each.host, port) for each in touched if each.spec for port in each.spec.ports}
    moved = any(each.spec and each.ports and each.ports != each.spec.ports for each in engines)
    renewed = any(each.action == "replace" and not each.same_but_image for each in engines)
    return (
        not serving
        or moved
        or bool(freed & taken)
        or (renewed and any(each.action != "remove" and not each.same_but_image for each in front))
    )


def is_leftover(change: Change) -> bool:
    """Return whether a container that goes is one that a run which was killed had stopped and set aside."""
    return change.action == "remove" and change.name.endswith(ASIDE)


def _one_by_one(coming: Sequence[Change], serving: Set[Key], updates: Sequence[Change]) -> list[Unit]:
    stores = [each for each in coming if each.role in STORES]
    engines = [each for each in coming if each.role in ENGINES]
    front = [each for each in coming if each.role in FRONT]
    idle = [each for each in engines if each.key not in serving]
    busy = sorted((each for each in engines if each.key in serving), key=lambda each: ENGINES.index(each.role))
    below = Unit((*_out(stores), *_in(stores)), apart=all(each.role == "worker" for each in stores))
    rolling = [Unit((*_out([each]), *_in([each]))) for each in busy]
    # What P and D must agree on, or where their worker is, may have changed: they go back together.
    together = {each.role for each in busy if not each.same_but_image} == set(ENGINES)
    moved = any(each.spec and each.ports and each.ports != each.spec.ports for each in stores)
    if rolling and (together or moved):
        rolling = [Unit(tuple(batch for unit in rolling for batch in unit.batches))]
    if rolling and moved:
        below, rolling = Unit((*below.batches, *rolling[0].batches)), []
    last = [*front, *updates]
    new = [each for each in idle if last or each.action == "replace"]
    return [
        below,
        Unit((*_out(idle), *_in(idle, chosen=not last)), apart=True),
        *rolling,
        Unit((*_out(front), *_in(front), _each("update", updates), _each("await choice of", new if last else []))),
    ]


def _out(going: Sequence[Change]) -> list[Batch]:
    """Drain and set aside, what depends on others first; behind a front that goes nothing is left to drain."""
    drained = ("endpoint",) if any(each.role == "endpoint" for each in going) else ENGINES
    batches: list[Batch] = []
    for position in range(len(WAVES), -1, -1):
        here = [each for each in going if each.action != "create" and _position(each) == position]
        batches += [_each("drain", (each for each in here if each.role in drained)), _each("set aside", here)]
    return batches


def _in(coming: Sequence[Change], *, chosen: bool = True) -> list[Batch]:
    """Start and await, what others need first; a front that comes last counts all P and D when it is ready."""
    batches: list[Batch] = []
    chosen = chosen and not any(each.role in FRONT for each in coming)
    for position in range(len(WAVES)):
        here = [each for each in coming if each.spec and _position(each) == position]
        engines = [each for each in here if each.role in ENGINES]
        batches += [_each("start", here), _each("await", here), _each("await choice of", engines if chosen else [])]
    return batches


def _each(verb: Verb, changes: Iterable[Change]) -> Batch:
    return tuple(Step(verb, each) for each in changes)


def _position(change: Change) -> int:
    """Return its place in the start order; one without a known role, such as a verification's, is the last."""
    return START_ORDER.get(change.role, len(WAVES))
