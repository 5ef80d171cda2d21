"""What to do with each container, decided from what is wanted and what is there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from yrpd.deploying.spec import ContainerSpec

Action = Literal["create", "keep", "replace", "remove"]
OTHER_IMAGE = "it runs another image"


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
    """

    host: str
    name: str
    role: str
    status: str
    exit_code: int
    spec: str
    image_id: str
    started_at: str = ""

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
    """

    action: Action
    host: str
    name: str
    reason: str
    spec: ContainerSpec | None
    same_but_image: bool = False

    def document(self) -> dict[str, Any]:
        """Return the change as JSON values."""
        return {"action": self.action, "host": self.host, "name": self.name, "reason": self.reason}


def differences(spec: ContainerSpec, observed: Observed | None) -> tuple[str, ...]:
    """Return why a container is not what the spec says; nothing when it is exactly that, and runs."""
    if observed is None:
        return ("it is not there",)
    reasons = []
    if observed.status != "running":
        reasons.append(f"it is {observed.status}" + (f" with code {observed.exit_code}" if observed.exit_code else ""))
    if observed.image_id != spec.image_id:
        reasons.append(OTHER_IMAGE)
    if observed.spec not in (spec.digest, _digest_with_image_of(spec, observed)):
        reasons.append("its configuration changed")
    return tuple(reasons)


def _digest_with_image_of(spec: ContainerSpec, observed: Observed) -> str:
    return replace(spec, image_id=observed.image_id).digest


def decide(specs: Sequence[ContainerSpec], observed: Sequence[Observed]) -> tuple[Change, ...]:
    """Return one change for every container that is wanted or there; what is wanted comes in start order.

    A worker whose etcd is started anew is started anew too: the cluster that it belongs to is gone. P and D stay: they
    serve without a worker, and the connector finds the new one.
    """
    there = {each.key: each for each in observed}
    renewed: set[tuple[str, str]] = set()
    changes: list[Change] = []
    needed_by_digest = {(spec.name, spec.digest): spec.key for spec in specs}
    for spec in specs:
        present = there.get(spec.key)
        reasons = list(differences(spec, present))
        needs = [needed_by_digest[need] for need in spec.needs if need in needed_by_digest]
        if not reasons and (restarted := [name for host, name in needs if (host, name) in renewed]):
            reasons = [f"{restarted[0]} is started anew"]
        action: Action = "keep" if not reasons else "create" if present is None else "replace"
        if action != "keep":
            renewed.add(spec.key)
        because = " and ".join(reasons) or "unchanged and running"
        image_alone = present is not None and reasons == [OTHER_IMAGE]
        changes.append(Change(action, spec.host, spec.name, because, spec, image_alone))
    wanted = {spec.key for spec in specs}
    for extra in observed:
        if extra.key not in wanted:
            changes.append(Change("remove", extra.host, extra.name, "the inventory no longer has it", None))
    return tuple(changes)
