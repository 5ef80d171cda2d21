"""What to do with each container, decided from what is wanted and what is there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from yrpd.deploying.spec import ContainerSpec, restart_text

Action = Literal["create", "keep", "update", "replace", "remove"]
OTHER_IMAGE = "it runs another image"
UNCHANGED = "unchanged and running"
OTHER_FILES = "it has loaded other files of the model or an adapter"


@dataclass(frozen=True)
class Observed:
    """A container of this deployment, as its engine describes it.

    Attributes:
        host: The inventory's name of the host.
        name: The container's name.
        role: Its role label.
        status: Docker's word: ``running``, ``exited``, ``created``, ``restarting``, ...
        exit_code: Of its last end.
        spec: Digest of the spec it was made from.
        image_id: The image it runs.
        started_at: When, as Docker writes it.
        restart: Its restart policy now, as docker writes it: ``no``, ``on-failure:3``, ...
        settled: The fields that it was made with of those which change without making it anew; ``None`` when it does
            not tell, as containers of earlier versions.
        live: Paths and contents of the files that it reads again whenever they change.
        ports: Ports that it was made for.
        runs: Identity of what it runs of its image; empty is all of it.
        reads: Identity of the files that were there for it to read at its start; empty when nobody looked.
    """

    host: str
    name: str
    role: str
    status: str
    exit_code: int
    spec: str
    image_id: str
    started_at: str = ""
    restart: str = ""
    settled: Mapping[str, Any] | None = None
    live: tuple[tuple[str, str], ...] = ()
    ports: tuple[int, ...] = ()
    runs: str = ""
    reads: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the container among all hosts."""
        return self.host, self.name


@dataclass(frozen=True)
class Change:
    """What happens to one container.

    Attributes:
        action: What.
        host: Where.
        name: The container.
        reason: Why, a half sentence.
        spec: What it becomes; ``None`` when it is removed.
        same_but_image: It runs and is replaced by the same of another image.
        role: What it does.
        ports: Ports that what is there holds now.
    """

    action: Action
    host: str
    name: str
    reason: str
    spec: ContainerSpec | None
    same_but_image: bool = False
    role: str = ""
    ports: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the container among all hosts."""
        return self.host, self.name

    @property
    def title(self) -> str:
        """What people read of it."""
        return f"{self.name} on {self.host}"

    def document(self) -> dict[str, Any]:
        """Return the change as JSON values."""
        return {"action": self.action, "host": self.host, "name": self.name, "reason": self.reason}


def differences(specs: Sequence[ContainerSpec], observed: Sequence[Observed]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return for each container that is wanted why it is to be made anew; nothing when it is as wanted, and runs."""
    there = {each.key: each for each in observed}
    found = {}
    for spec in specs:
        # What it needs, as that is called in what was there before: a kept etcd may have an earlier image.
        needs = [each for each in _needed(spec, specs) if each.key in there]
        before = tuple(as_observed(each, there[each.key]).need for each in needs)
        found[spec.key] = _differences(spec, there.get(spec.key), before)
    return found


def _needed(spec: ContainerSpec, specs: Sequence[ContainerSpec]) -> list[ContainerSpec]:
    names = {name for name, _ in spec.needs}
    return [each for each in specs if each.name in names and each.need in spec.needs]


def _differences(spec: ContainerSpec, observed: Observed | None, needs: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    if observed is None:
        return ("it is not there",)
    reasons = []
    if observed.status != "running":
        reasons.append(f"it is {observed.status}" + (f" with code {observed.exit_code}" if observed.exit_code else ""))
    if observed.image_id != spec.image_id and not (spec.runs and spec.runs == observed.runs):
        reasons.append(OTHER_IMAGE)
    if observed.spec != spec.digest:
        as_made = as_observed(spec, observed)
        if observed.spec not in (as_made.digest, replace(as_made, needs=needs).digest):
            reasons.append("its configuration changed")
    if spec.reads and observed.reads and spec.reads != observed.reads:
        reasons.append(OTHER_FILES)
    return tuple(reasons)


def as_observed(spec: ContainerSpec, observed: Observed) -> ContainerSpec:
    """Return a spec with the image that runs, and with what it was made with of the fields that change in place."""
    return replace(spec, image_id=observed.image_id, **(observed.settled or {}))


def in_place(spec: ContainerSpec, observed: Observed) -> tuple[str, ...]:
    """Return what differs of a container that is changed while it runs."""
    reasons = []
    if observed.restart and observed.restart != restart_text(spec.restart, spec.restart_attempts):
        reasons.append(f"its restart policy is {observed.restart}")
    names = [path.rpartition("/")[2] for path, text in spec.live if dict(observed.live).get(path) != text]
    if names:
        reasons.append(f"its {' and '.join(names)} changed")
    return tuple(reasons)


def not_compared(spec: ContainerSpec, observed: Observed | None) -> str:
    """Return why it is not known whether a container has loaded the files that are there now; empty when it is."""
    if observed is None or bool(spec.reads) == bool(observed.reads):
        return ""
    if spec.reads:
        return "which files of the model it has loaded is not known, since nobody looked when it was made"
    return "the files of its model cannot be read now"


def decide(specs: Sequence[ContainerSpec], observed: Sequence[Observed]) -> tuple[Change, ...]:
    """Return one change for every container that is wanted or there; what is wanted comes in start order.

    A worker whose etcd is started anew is started anew too: the cluster that it belongs to is gone. P and D stay: they
    serve without a worker, and the connector finds the new one.
    """
    there = {each.key: each for each in observed}
    renewed: set[tuple[str, str]] = set()
    changes: list[Change] = []
    different = differences(specs, observed)
    for spec in specs:
        present, reasons = there.get(spec.key), list(different[spec.key])
        if not reasons and (restarted := [each.name for each in _needed(spec, specs) if each.key in renewed]):
            reasons = [f"{restarted[0]} is started anew"]
        action: Action = "replace" if reasons else "keep"
        if present is None:
            action = "create"
        elif not reasons and (reasons := list(in_place(spec, present))):
            action = "update"
        if action in ("create", "replace"):
            renewed.add(spec.key)
        image_alone = present is not None and reasons == [OTHER_IMAGE]
        because = " and ".join(reasons) or "; ".join(filter(None, (UNCHANGED, not_compared(spec, present))))
        changes.append(
            Change(action, *spec.key, because, spec, image_alone, spec.role, present.ports if present else ())
        )
    wanted = {spec.key for spec in specs}
    for extra in observed:
        if extra.key not in wanted:
            reason = "the inventory no longer has it"
            changes.append(Change("remove", *extra.key, reason, None, role=extra.role, ports=extra.ports))
    return tuple(changes)
