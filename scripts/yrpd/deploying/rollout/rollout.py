"""Brings the hosts to the planned state: in order, gated on readiness, and back out when it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from yrpd.deploying.hosts import containers
from yrpd.deploying.hosts.probing import NotReadyError, check_once, wait_until_ready
from yrpd.deploying.reconcile import Change
from yrpd.deploying.rollout.drain import drain, drain_endpoint, resume, resume_endpoint, wait_until_chosen
from yrpd.deploying.spec import DEPLOYMENT, ROLE, START_ORDER, WAVES, ContainerSpec, HttpProbe, Role
from yrpd.docker.sdk import APIError, Container, DockerClient, NotFound
from yrpd.errors import DeployError, YrpdError
from yrpd.reporting import Reporter

BELOW, FRONT = WAVES[:2], WAVES[3:]
ENGINES: tuple[Role, ...] = ("decode", "prefill")  # D first
ASIDE = "-before"  # what a replaced container is called until the new one answers
FAILED_GRACE_S = 10  # what failed to start has no requests in flight


@dataclass
class Rollout:
    """One run.

    Args:
        clients: The hosts' engines.
        deployment: The deployment's name.
        logs: Folder for the logs of what failed.
        reporter: Says what is being done.
        drain_s: How long a P, D or endpoint may take to finish its requests before it is exchanged.
    """

    clients: Mapping[str, DockerClient]
    deployment: str
    logs: Path
    reporter: Reporter
    drain_s: int = 300
    started: list[tuple[ContainerSpec, Container]] = field(default_factory=list)
    set_aside: list[tuple[str, str, Container]] = field(default_factory=list)
    draining: list[Container] = field(default_factory=list)
    closing: list[tuple[ContainerSpec, Container]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, changes: Sequence[Change]) -> None:
        """Do what was decided.

        What is replaced is stopped and set aside, and removed only when everything new is ready.

        Raises:
            DeployError: A container did not become ready. What this run started is removed again, its logs are kept,
                and what ran before runs again.
        """
        changes = self._end_leftovers(changes)
        try:
            if one_at_a_time(changes):
                # P and D serve without the DataSystem while it is exchanged, and find it again.
                self._exchange(changes, BELOW)
                # While one is exchanged the others of its role serve; D first, since a P of the old kind can feed a D
                # of the new one, and not the other way round.
                serving = self._exchange_idle(changes)
                for role in ENGINES:
                    for change in serving[role]:
                        self._drain(change, changes)
                        self._set_aside([change])
                        self._start_wave([change])
                        self._wait_for_router(role, changes)
                self._exchange(changes, FRONT)
            else:
                self._set_aside([change for change in changes if change.action in ("replace", "remove")])
            for wave in WAVES:
                done = {spec.key for spec, _ in self.started}
                self._start_wave(
                    [each for each in changes if each.spec and each.spec.role in wave and each.spec.key not in done]
                )
        except BaseException as error:
            kept = self._back_out()
            if isinstance(error, YrpdError) and kept:
                error.next_command = error.next_command or f"less {kept}"
            raise
        end_all([(container, 0) for _, _, container in self.set_aside])

    def _end_leftovers(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Remove what a run that was killed had set aside, let what it was draining serve; return the other changes."""
        there = (self._get(change.host, change.name) for change in changes if is_leftover(change))
        end_all([(each, 0) for each in there if each is not None])
        for change in changes:
            if change.action == "keep" and change.spec and change.spec.role in ENGINES:
                resume(self._found(change.spec)[1])
            if change.action == "keep" and change.spec and change.spec.role == "endpoint":
                resume_endpoint(self._found(change.spec)[1], change.spec)
        return [change for change in changes if not is_leftover(change)]

    def _serves(self, change: Change) -> bool:
        container = self._get(change.host, change.name)
        if container is None or container.status != "running" or change.spec is None:
            return False
        try:
            check_once(change.spec.probe, container)
        except NotReadyError:
            return False
        return True

    def _drain(self, change: Change, changes: Sequence[Change]) -> None:
        """Let a P or D finish what it has, where a router that stays can send what comes elsewhere."""
        router, container = _router(changes), self._get(change.host, change.name)
        if container is None or container.status != "running" or change.spec is None or router is None:
            return
        with self.reporter.step(f"draining {change.name} on {change.host}"):
            self.draining.append(container)
            if problem := drain(container, change.spec, router, self.drain_s):
                self.reporter.say(f"    {problem}")

    def _wait_for_router(self, role: Role, changes: Sequence[Change]) -> None:
        """Wait until the router chooses the new one, too: the next one that goes may be the only other."""
        router = _router(changes)
        if router is not None and (problem := wait_until_chosen(router, role)):
            self.reporter.say(f"    {problem}")

    def _exchange(self, changes: Sequence[Change], waves: Sequence[Sequence[Role]]) -> None:
        """Stop all that changes in some waves, then start it, wave by wave."""
        touched = [each for each in changes if each.action != "keep"]
        going = [[each for each in touched if each.spec and each.spec.role in wave] for wave in waves]
        self._set_aside([each for wave in going for each in wave if each.action == "replace"])
        for wave in going:
            self._start_wave(wave)

    def _exchange_idle(self, changes: Sequence[Change]) -> dict[Role, list[Change]]:
        """Exchange all P and D at once that do not serve anyway; return those that are left, by role."""
        touched = [each for each in changes if each.spec and each.spec.role in ENGINES and each.action != "keep"]
        serving = [each for each in touched if self._serves(each)]
        idle = [each for each in touched if each not in serving]
        self._set_aside(idle)
        self._start_wave(idle)
        left = {role: [each for each in serving if each.spec and each.spec.role == role] for role in ENGINES}
        for role in ENGINES:
            if left[role] and any(each.spec and each.spec.role == role for each in idle):
                self._wait_for_router(role, changes)
        return left

    def _drain_endpoint(self, going: Sequence[Change]) -> None:
        """Let the endpoint answer what it has before anything behind it stops."""
        for change in going:
            container = self._get(change.host, change.name) if change.spec and change.spec.role == "endpoint" else None
            if change.spec is not None and container is not None and container.status == "running":
                self.closing.append((change.spec, container))
                with self.reporter.step(f"draining {change.name} on {change.host}"):
                    if problem := drain_endpoint(container, self.drain_s):
                        self.reporter.say(f"    {problem}")

    def _set_aside(self, going: Sequence[Change]) -> None:
        if not going:
            return
        self._drain_endpoint(going)
        names = ", ".join(f"{change.name} on {change.host}" for change in going)
        with self.reporter.step(f"stopping {names}"):
            found = [(change, self._get(change.host, change.name)) for change in going]
            there = [(change, container) for change, container in found if container is not None]
            stop_all([(each, change.spec.stop_seconds if change.spec else FAILED_GRACE_S) for change, each in there])
            for change, container in there:
                container.rename(f"{change.name}{ASIDE}")
                self.set_aside.append((change.host, change.name, container))

    def _start_wave(self, changes: Sequence[Change]) -> None:
        specs = [(change, change.spec) for change in changes if change.spec]
        if not specs:
            return
        for change, _ in specs:
            if change.action == "keep":
                self.reporter.say(f"    {change.name} on {change.host} is kept: {change.reason}")
        starting = [f"{change.name} on {change.host}" for change, _ in specs if change.action != "keep"]
        if not starting:
            self._wait([self._found(spec) for _, spec in specs])
            return
        with self.reporter.step(f"starting {', '.join(starting)}"):
            waiting: list[tuple[ContainerSpec, Container]] = []
            for change, spec in specs:
                if change.action == "keep":
                    waiting.append(self._found(spec))
                    continue
                container = containers.start(self.clients[spec.host], spec)
                self.started.append((spec, container))
                waiting.append((spec, container))
            self._wait(waiting)

    def _wait(self, waiting: Sequence[tuple[ContainerSpec, Container]]) -> None:
        """Wait for all at once; the first that fails ends the waiting for the others."""
        abandoned = Event()
        with ThreadPoolExecutor(max_workers=max(1, len(waiting))) as pool:
            futures = {pool.submit(wait_until_ready, spec, each, abandoned): spec for spec, each in waiting}
            try:
                for future in as_completed(futures):
                    spec = futures[future]
                    self.seconds[f"{spec.host}/{spec.name}"] = round(future.result(), 1)
            finally:
                abandoned.set()

    def _found(self, spec: ContainerSpec) -> tuple[ContainerSpec, Container]:
        container = self._get(spec.host, spec.name)
        if container is None:
            raise DeployError(f"{spec.name} on {spec.host} was removed by somebody else during the deployment.")
        return spec, container

    def _get(self, host: str, name: str) -> Container | None:
        try:
            return self.clients[host].containers.get(name)
        except NotFound:
            return None

    def _back_out(self) -> str:
        """Keep the logs of what this run started, remove it, start again what ran before; return the first log."""
        kept: list[str] = []
        for spec, container in reversed(self.started):
            self.logs.mkdir(parents=True, exist_ok=True)
            path = self.logs / f"{spec.host}-{spec.name}.log"
            path.write_text(containers.log_text(container), encoding="utf-8")
            for name, content in containers.inner_logs(container):
                inside = path.with_suffix("") / name
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.write_bytes(content)
            kept.append(str(path))
            try:
                containers.end(container, FAILED_GRACE_S)
            except APIError as error:
                self.reporter.say(f"    {spec.name} on {spec.host} could not be removed: {error.explanation}")
        if kept:
            self.reporter.say(f"    removed what this run had started; logs are in {self.logs}")
        for container in self.draining:
            resume(container)
        for spec, container in self.closing:
            resume_endpoint(container, spec)
        for host, name, container in sorted(self.set_aside, key=lambda each: _position(each[2])):
            try:
                container.rename(name)
                container.start()
                self.reporter.say(f"    {name} on {host} runs again as before")
            except APIError as error:
                self.reporter.say(f"    {name} on {host} could not be started again: {error.explanation}")
        return kept[0] if kept else ""


def _position(container: Container) -> int:
    """Return its place in the start order; one without a known role, such as a verification's, is the last."""
    return START_ORDER.get(container.labels.get(ROLE, ""), len(WAVES))


def _router(changes: Sequence[Change]) -> HttpProbe | None:
    """Return what asks the router, which counts the P and D that it chooses among."""
    probes = [each.spec.probe for each in changes if each.spec and each.spec.role == "router"]
    return next((probe for probe in probes if isinstance(probe, HttpProbe)), None)


def is_leftover(change: Change) -> bool:
    """Return whether a container that goes is one that a run that was killed had stopped and set aside."""
    return change.action == "remove" and change.name.endswith(ASIDE)


def one_at_a_time(changes: Sequence[Change]) -> bool:
    """Return whether P and D can be exchanged one by one.

    None is added or goes, and the router would choose among the same: it stays, or only its image changes.
    """
    touched = [change for change in changes if change.action != "keep"]
    engines = [each for each in touched if each.spec and each.spec.role in ENGINES]
    front = [each for each in touched if each.spec and each.spec.role in ("router", "endpoint")]
    return (
        bool(touched)
        and all(each.spec is not None for each in touched)
        and all(each.action == "replace" for each in engines)
        and all(each.same_but_image for each in front)
    )


def log_folder(build: Path) -> Path:
    """Return a new folder name for the logs of a run that failed."""
    return build / "logs" / "deploy" / datetime.now(tz=UTC).strftime("%Y%m%dT%H%M%SZ")


def end_all(pairs: Sequence[tuple[Container, int]]) -> None:
    """Stop and remove containers: what depends on others first, all of one kind at the same time.

    Args:
        pairs: Containers, each with its grace between SIGTERM and SIGKILL in seconds.
    """
    _in_reverse(pairs, containers.end)


def stop_all(pairs: Sequence[tuple[Container, int]]) -> None:
    """Stop containers in the same order, and keep them."""
    _in_reverse(pairs, lambda container, grace_s: container.stop(timeout=grace_s))


def _in_reverse(pairs: Sequence[tuple[Container, int]], act: Callable[[Container, int], None]) -> None:
    kinds: dict[int, list[tuple[Container, int]]] = {}
    for container, grace in pairs:
        kinds.setdefault(_position(container), []).append((container, grace))
    for position in sorted(kinds, reverse=True):
        with ThreadPoolExecutor(max_workers=len(kinds[position])) as pool:
            list(pool.map(lambda pair: act(*pair), kinds[position]))


def remove_all(
    clients: Mapping[str, DockerClient], deployment: str, grace_s: int, reporter: Reporter
) -> dict[str, list[dict[str, Any]]]:
    """Stop and remove every container and volume of a deployment, on every host.

    Returns:
        What was removed: ``containers`` and ``volumes``.
    """
    found = [
        (observed, container)
        for host, client in clients.items()
        for observed, container in containers.listed(client, host, deployment)
    ]
    if found:
        with reporter.step(f"removing {', '.join(f'{each.name} on {each.host}' for each, _ in found)}"):
            end_all([(container, grace_s) for _, container in found])
    volumes = []
    for host, client in clients.items():
        for volume in client.volumes.list(filters={"label": f"{DEPLOYMENT}={deployment}"}):
            volume.remove(force=True)
            volumes.append({"host": host, "name": str(volume.name)})
    return {
        "containers": [{"host": observed.host, "name": observed.name} for observed, _ in found],
        "volumes": volumes,
    }
