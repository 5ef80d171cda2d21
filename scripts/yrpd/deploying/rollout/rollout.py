"""Carries out the steps of a rollout: in order, gated on readiness, and step by step back where one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Literal

from yrpd.deploying.hosts import containers, records
from yrpd.deploying.hosts.engines import LOST, reason, surely
from yrpd.deploying.hosts.probing import NotReadyError, check_once, wait_until_ready
from yrpd.deploying.reconcile import Change, Observed
from yrpd.deploying.rollout.drain import drain, drain_endpoint, resume, resume_endpoint, wait_until_chosen
from yrpd.deploying.rollout.steps import ASIDE, FRONT, Batch, Key, Step, Unit, Verb, steps
from yrpd.deploying.spec import ENGINES, ContainerSpec, HttpProbe, Probe
from yrpd.docker.sdk import Container, DockerClient, NotFound
from yrpd.errors import DeployError, YrpdError
from yrpd.reporting import Reporter
from yrpd.serving.draining import HEALTH

DOING: Mapping[Verb, str] = {
    "drain": "draining",
    "set aside": "stopping",
    "start": "starting",
    "await": "waiting for",
    "await choice of": "waiting until the front chooses",
    "update": "changing",
    "remove": "removing",
}
READY_WITHIN_S = 900  # for what the inventory no longer has, and with it no deadline
FAILED_GRACE_S = 10  # what failed to start has no requests in flight
AT_A_TIME = 32

State = Literal["waiting", "done", "undone", "failed"]


@dataclass
class Rollout:
    """One run.

    Args:
        clients: The hosts' engines.
        deployment: The deployment's name.
        logs: Folder for the logs of what failed.
        reporter: Says what is being done.
        drain_s: How long a P, D or endpoint may take to finish its requests before it is replaced.
        addresses: Address of each host, where what goes is asked for its requests.
        at_a_time: How many steps of a batch run beside each other.
    """

    clients: Mapping[str, DockerClient]
    deployment: str
    logs: Path
    reporter: Reporter
    drain_s: int = 300
    addresses: Mapping[str, str] = field(default_factory=dict)
    at_a_time: int = AT_A_TIME
    seconds: dict[str, float] = field(default_factory=dict)
    states: dict[Key, State] = field(default_factory=dict)
    _before: dict[Key, tuple[Observed, Container]] = field(default_factory=dict)
    _kept_logs: list[Path] = field(default_factory=list)
    _router: HttpProbe | None = None
    _front_stays: bool = True

    def plan(self, changes: Sequence[Change]) -> tuple[Unit, ...]:
        """Return what :meth:`run` would do now.

        Raises:
            EngineLostError: A host does not answer.
        """
        return steps(changes, {each.key for each in changes if each.role in ENGINES and self._serves(each)})

    def run(self, changes: Sequence[Change]) -> None:
        """Do what was decided.

        What is replaced is stopped and set aside, and removed when what stands or falls with it is ready. Where a step
        fails, what stands or falls with it goes back step by step; what was finished before stays.

        Raises:
            DeployError: A container did not become ready, or a host was lost. Logs are kept.
        """
        units = self.plan(changes)
        self.states |= {each.key: "waiting" for each in changes if each.action != "keep"}
        self._look(changes)
        self._let_serve(changes)
        for unit in units:
            self._run(unit)

    def _look(self, changes: Sequence[Change]) -> None:
        """Learn what goes back where a step fails: what serves, or what a run that was killed had set aside."""
        there: dict[Key, tuple[Observed, Container]] = {
            seen.key: (seen, container)
            for host, client in self.clients.items()
            for seen, container in containers.listed(client, host, self.deployment)
        }
        probes = [each.spec.probe for each in changes if each.spec and each.role == "endpoint"]
        self._router = next((probe for probe in probes if isinstance(probe, HttpProbe)), None)
        for change in changes:
            aside = there.get((change.host, f"{change.name}{ASIDE}"))
            if change.key in there:
                self._before[change.key] = there[change.key]
            if aside and (change.action == "keep" or not self._serves(change)):
                self._before[change.key] = aside

    def _let_serve(self, changes: Sequence[Change]) -> None:
        """Let serve what a run that was killed was draining."""
        for change in changes:
            if change.action not in ("keep", "update") or change.spec is None:
                continue
            with self._of(change):
                container = self._get(change) if change.role in (*ENGINES, "endpoint") else None
                if container and change.role in ENGINES:
                    resume(container)
                elif container:
                    resume_endpoint(container, change.spec)

    def _run(self, unit: Unit) -> None:
        failures: dict[Key, BaseException] = {}
        done: list[Batch] = []
        changes = {step.change.key: step.change for batch in unit.batches for step in batch}
        self._front_stays = not any(each.role in FRONT and each.action != "keep" for each in changes.values())
        try:
            for batch in unit.batches:
                done.append(tuple(step for step in batch if step.change.key not in failures))
                failures |= self._attempt(done[-1], unit.apart)
                if failures and not unit.apart:
                    break
            undone = set(failures) if unit.apart else set(changes if failures else ())
            ready = changes.keys() - undone
        except BaseException as error:  # such as Ctrl-C: what is unfinished goes back
            ahead = {step.change.key for batch in unit.batches[len(done) - 1 :] for step in batch}
            undone = (ahead if unit.apart else set(changes)) | set(failures)
            ready = changes.keys() - undone
            failures = {**dict.fromkeys(undone, error), **failures}
        if undone:
            self._go_back([tuple(step for step in batch if step.change.key in undone) for batch in done])
        for key in undone:
            if self.states.get(key) == "waiting":
                self.states[key] = "failed" if key in failures else "undone"
        failures |= self._commit(ready, changes)
        if failures:
            raise self._summed_up(failures)

    def _attempt(self, batch: Batch, apart: bool) -> dict[Key, BaseException]:
        """Do the steps of a batch beside each other; return what failed. One failure ends the waiting of the others."""
        found: dict[Key, BaseException] = {}
        abandoned = Event()

        def attempt(step: Step) -> None:
            try:
                self._do(step, abandoned)
            except YrpdError as error:
                found.setdefault(step.change.key, error)
                if not apart:
                    abandoned.set()

        if batch:
            with self._said(batch):
                try:
                    self._beside_each_other(attempt, batch)
                finally:
                    abandoned.set()
        return found

    def _beside_each_other(self, act: Callable[[Step], None], batch: Batch) -> None:
        if min(self.at_a_time, len(batch)) == 1:
            for step in batch:
                act(step)
            return
        with ThreadPoolExecutor(max_workers=min(self.at_a_time, len(batch))) as pool:
            list(pool.map(act, batch))

    @contextmanager
    def _said(self, batch: Batch) -> Iterator[None]:
        verb = batch[0].verb
        names = ", ".join(step.change.title for step in batch)
        if verb == "await":
            for step in batch:
                if step.change.action == "keep":
                    self.reporter.say(f"    {step.change.title} is kept: {step.change.reason}")
        if verb == "await" and all(step.change.action == "keep" for step in batch):
            yield
            return
        with self.reporter.step(f"{DOING[verb]} {names}"):
            yield

    def _do(self, step: Step, abandoned: Event) -> None:
        change = step.change
        with self._of(change):
            container = self._get(change) if step.verb != "await choice of" else None
            match step.verb:
                case "drain":
                    self._drain(change, container, abandoned)
                case "set aside":
                    self._set_aside(change, container)
                case "start":
                    if change.spec:
                        containers.start(self.clients[change.host], change.spec)
                case "await":
                    self._await(change, container, abandoned)
                case "await choice of":
                    self._await_choice(change)
                case "update":
                    if change.spec and not container:
                        raise DeployError(f"{change.title} was removed by somebody else.")
                    if change.spec and container:
                        containers.update(
                            container, change.spec.restart, change.spec.restart_attempts, change.spec.live
                        )
                case "remove":
                    if container:
                        containers.end(container, 0)

    def _await(self, change: Change, container: Container | None, abandoned: Event) -> None:
        if change.spec is None:
            return
        if container is None:
            raise DeployError(f"{change.title} was removed by somebody else during the deployment.")
        took = wait_until_ready(change.title, change.spec.probe, container, abandoned)
        self.seconds[f"{change.host}/{change.name}"] = round(took, 1)

    def _undo(self, step: Step) -> None:
        change = step.change
        with self._of(change):
            container = self._get(change)
            seen, before = self._before.get(change.key, (None, None))
            match step.verb:
                case "drain":
                    if container is None:
                        self._bring_back(change)
                    elif change.role in ENGINES:
                        resume(container)
                    elif change.spec:
                        resume_endpoint(container, change.spec)
                case "set aside":
                    self._bring_back(change)
                case "start":
                    if container and (before is None or container.id != before.id):
                        self._end_new(change, container)
                    if change.action == "create":
                        self._bring_back(change)
                case "await":
                    if (
                        change.action in ("keep", "update")
                        and before
                        and (container is None or container.id != before.id)
                    ):
                        if container:  # a killed run had started it; what ran before still has its other name
                            self._end_new(change, container)
                        self._bring_back(change)
                case "update":
                    if container is None:
                        self._bring_back(change)
                    elif seen:
                        policy, _, attempts = seen.restart.partition(":")
                        containers.update(container, policy, int(attempts or 0), seen.live)
                case "await choice of" | "remove":
                    pass

    def _drain(self, change: Change, container: Container | None, abandoned: Event) -> None:
        if container is None or container.status != "running":
            return
        problem = ""
        if change.role == "endpoint":
            problem = drain_endpoint(container, self.drain_s, abandoned)
        elif self._router and isinstance(probe := self._probe_of(change), HttpProbe):
            problem = drain(container, change.role, probe, self._router, self.drain_s, abandoned)
        if problem:
            self.reporter.say(f"    {change.title}: {problem}")

    def _set_aside(self, change: Change, container: Container | None) -> None:
        if container is None:
            return
        if (aside := self._get(change, ASIDE)) is not None:
            if self._before[change.key][1].id == aside.id:
                containers.end(container, FAILED_GRACE_S)  # a run that was killed had begun to start it
                return
            containers.end(aside, 0)
        with suppress(NotFound):  # somebody else has removed it, which is no reason to stop
            container.stop(timeout=change.spec.stop_seconds if change.spec else FAILED_GRACE_S)
            container.rename(f"{change.name}{ASIDE}")

    def _bring_back(self, change: Change) -> None:
        """Let what ran before run again, under its name, and wait until it is ready."""
        seen, before = self._before.get(change.key, (None, None))
        if seen is None or before is None:
            return
        try:
            before.reload()
        except NotFound:
            before = self._made_again(change, seen)
            if change.key in self.states:
                self.states[change.key] = "undone"
        if before.name != change.name:
            before.rename(change.name)
        if not seen.name.endswith(ASIDE) and seen.status != "running":
            return
        before.start()
        if change.role in ENGINES:
            resume(before)  # what says that it is being drained outlives its end
        self.reporter.say(f"    {change.title} runs again as before")
        if probe := self._probe_of(change):
            wait_until_ready(change.title, probe, before)
        if change.role in ENGINES and self._front_stays:
            self._await_choice(change)

    def _await_choice(self, change: Change) -> None:
        if self._router and (problem := wait_until_chosen(self._router, change.role)):
            self.reporter.say(f"    {problem}")

    def _made_again(self, change: Change, seen: Observed) -> Container:
        """Return what ran before, made from the host's record: somebody else has removed it meanwhile."""
        client = self.clients[change.host]
        for release in records.recall(client, self.deployment)["releases"]:
            for document in release["specs"]:
                spec = ContainerSpec.from_document(document)
                if spec.key == change.key and spec.digest == seen.spec:
                    containers.start(client, spec)
                    return client.containers.get(spec.name)
        raise DeployError(f"{change.title} was removed by somebody else, and the host's record does not know it.")

    def _end_new(self, change: Change, container: Container) -> None:
        """Keep the logs of what this run started, and remove it; what serves already finishes its requests."""
        if change.spec and change.role in (*ENGINES, "endpoint"):
            with suppress(NotReadyError):
                check_once(change.spec.probe, container)
                self._drain(change, container, Event())
        path = self.logs / f"{change.host}-{change.name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(containers.log_text(container), encoding="utf-8")
        for name, content in containers.inner_logs(container):
            inside = path.with_suffix("") / name
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.write_bytes(content)
        self._kept_logs.append(path)
        containers.end(container, FAILED_GRACE_S)
        self.reporter.say(f"    {change.title} is removed again; its log is {path}")

    def _go_back(self, done: Sequence[Batch]) -> None:
        """Undo backwards; what cannot be undone is said, and the rest is undone all the same."""
        for batch in reversed([batch for batch in done if batch]):
            self._beside_each_other(self._undo_surely, tuple(reversed(batch)))

    def _undo_surely(self, step: Step) -> None:
        if error := surely(lambda: self._undo(step), given_up=(NotReadyError,)):
            self.reporter.say(f"    {step} could not be undone: {error or type(error).__name__}")

    def _commit(self, keys: Set[Key], changes: Mapping[Key, Change]) -> dict[Key, BaseException]:
        """Remove what had been set aside of what is ready now."""
        failures: dict[Key, BaseException] = {}
        self.states |= {key: "done" for key in keys if key in self.states}
        for key in sorted(keys):
            try:
                with self._of(changes[key]):
                    if aside := self._get(changes[key], ASIDE):
                        containers.end(aside, 0)
            except DeployError as error:
                failures[key] = error
        return failures

    def _summed_up(self, failures: Mapping[Key, BaseException]) -> BaseException:
        errors = list(dict.fromkeys(failures.values()))
        first = next((error for error in errors if not isinstance(error, YrpdError)), errors[0])
        if isinstance(first, YrpdError):
            others = [str(error) for error in errors[1:]]
            first.detail = "\n".join(filter(None, [first.detail, *others]))
            if not first.next_command and self._kept_logs:
                first.next_command = f"less {self._kept_logs[0]}"
        return first

    @contextmanager
    def _of(self, change: Change) -> Iterator[None]:
        """Make what an engine answers a failure of its host."""
        try:
            yield
        except LOST as error:
            raise DeployError(f"{change.title}: {reason(error)}.") from error

    def _get(self, change: Change, suffix: str = "") -> Container | None:
        try:
            return self.clients[change.host].containers.get(f"{change.name}{suffix}")
        except NotFound:
            return None

    def _probe_of(self, change: Change) -> Probe | None:
        """Return how what ran before is asked: a P or D at the port that it has, others as what takes their place."""
        seen, _ = self._before.get(change.key, (None, None))
        ports = seen.ports if seen else change.ports
        wanted = change.spec.probe if change.spec else None
        if change.role in ENGINES and ports and change.host in self.addresses:
            deadline_s = wanted.deadline_s if wanted else READY_WITHIN_S
            return HttpProbe(f"http://{self.addresses[change.host]}:{ports[0]}{HEALTH}", deadline_s=deadline_s)
        return wanted if change.spec and ports in ((), change.spec.ports) else None

    def _serves(self, change: Change) -> bool:
        with self._of(change):
            container = self._get(change)
            probe = self._probe_of(change)
            if container is None or container.status != "running" or probe is None:
                return False
            try:
                check_once(probe, container)
            except NotReadyError:
                return False
        return True


def log_folder(build: Path) -> Path:
    """Return a new folder name for the logs of a run that failed."""
    return build / "logs" / "deploy" / datetime.now(tz=UTC).strftime("%Y%m%dT%H%M%SZ")
