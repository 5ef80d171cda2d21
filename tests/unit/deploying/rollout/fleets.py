"""Deployments that rollouts change, and one run of ``deploy`` without what comes before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.unit.deploying.rollout.fake_engines import FakeEngine, World
from yrpd.deploying.hosts import containers, records
from yrpd.deploying.reconcile import Change, decide
from yrpd.deploying.rollout.audit import audited
from yrpd.deploying.rollout.rollout import Rollout
from yrpd.deploying.spec import START_ORDER, ContainerSpec, FileProbe, HttpProbe, Role
from yrpd.project import Project
from yrpd.reporting import Reporter

ADDRESSES = {"host1": "10.0.0.1", "host2": "10.0.0.2"}
OLD, NEW = "sha256:old", "sha256:new"


def container(role: Role, number: int, host: str, port: int, image: str = OLD) -> ContainerSpec:
    """Return a container's spec."""
    address = ADDRESSES[host]
    path = "readiness" if role == "endpoint" else "x"
    probe = HttpProbe(f"http://{address}:{port}/{path}", deadline_s=60)
    return ContainerSpec(
        host=host,
        engine=f"unix:///{host}",
        deployment="d",
        role=role,
        name=f"d-{role}-{number}",
        image="yrpd:1",
        image_id=image,
        argv=(role,),
        probe=FileProbe("/ready", address, port) if role == "worker" else probe,
        ports=(port,),
        live=(("/var/lib/endpoints.json", "{}"),) if role == "endpoint" else (),
    )


def fleet(prefill: int = 1, decode: int = 2, image: str = OLD) -> list[ContainerSpec]:
    """Return a deployment: etcd, endpoint and P on the first host, D on the second, a worker on each."""
    etcd = container("etcd", 0, "host1", 2379, image)
    workers = [
        replace(container("worker", number, host, 31501, image), needs=(etcd.need,))
        for number, host in enumerate(ADDRESSES)
    ]
    engines = [container("prefill", number, "host1", 8100 + number, image) for number in range(prefill)]
    engines += [container("decode", number, "host2", 8200 + number, image) for number in range(decode)]
    endpoint = container("endpoint", 0, "host1", 9000, image)
    return sorted([etcd, *workers, *engines, endpoint], key=lambda spec: START_ORDER[spec.role])


def changed(specs: Sequence[ContainerSpec], *roles: Role, **fields: object) -> list[ContainerSpec]:
    """Return the specs with some fields of some roles changed; who needs a changed one needs it as it is now."""
    now = [replace(spec, **fields) if spec.role in roles else spec for spec in specs]  # type: ignore[arg-type]
    etcd = next(spec for spec in now if spec.role == "etcd")
    return [replace(spec, needs=(etcd.need,)) if spec.role == "worker" else spec for spec in now]


def make_world(world: World) -> dict[str, FakeEngine]:
    """Return the hosts' engines."""
    return {host: world.engine(host, address) for host, address in ADDRESSES.items()}


class Quiet(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Keep it."""
        self.said.append(title)
        yield


def deploy(
    engines: dict[str, FakeEngine], specs: Sequence[ContainerSpec], folder: Path, command: str = "deploy"
) -> tuple[Change, ...]:
    """Deploy under the hosts' locks, and put it on their records, as ``deploying.deploy`` does."""
    reporter, clients = Quiet(), dict(engines)
    with records.locked(clients, "d", command, reporter):  # type: ignore[arg-type]
        observed = [each for host, one in clients.items() for each, _ in containers.listed(one, host, "d")]  # type: ignore[arg-type]
        changes = decide(specs, observed)
        rollout = Rollout(clients, "d", folder / "logs", reporter, 300, ADDRESSES, at_a_time=1)  # type: ignore[arg-type]
        with audited(Project(folder), clients, "d", command, changes, specs, rollout.states):  # type: ignore[arg-type]
            rollout.run(changes)
    return changes
