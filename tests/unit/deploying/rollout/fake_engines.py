"""Docker engines of memory alone, with a failure at any call: what the SDK's objects do for a rollout, and no more.

A fault can strike at every call that reaches an engine, before the engine has done what it was asked or after it: an
answer that is lost is worse than a refusal.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import requests

from yrpd.deploying.hosts.engines import naming
from yrpd.deploying.spec import LIVE, PORTS, ROLE
from yrpd.docker.sdk import APIError, NotFound
from yrpd.serving.command_lines import DRAINING
from yrpd.serving.draining import HEALTH

Kind = str
Call = tuple[str, str, str]  # host, what was asked, and of which container
#: What can go wrong at a call; the second half of those with two strikes after the engine has done it.
KINDS: tuple[Kind, ...] = (
    "refused",
    "reset",
    "time-out",
    "500",
    "500 after",
    "vanished",
    "disk full",
    "Ctrl-C",
    "Ctrl-C after",
    "SIGKILL",
    "SIGKILL after",
    "engine lost",
    "engine away",
)
AWAY_FOR = 4  # calls


class Killed(BaseException):
    """The tool's process is no more: nothing that it would still do happens."""


@dataclass
class Fault:
    """What happens at the nth call of all.

    Attributes:
        at: Which call, from 0; -1 is never.
        kind: One of :data:`KINDS`.
        struck: The call that it happened at: host, what, and the container's name.
    """

    at: int = -1
    kind: Kind = ""
    struck: Call | None = None


@dataclass
class World:
    """All hosts, and the network between them.

    Attributes:
        fault: What will go wrong.
        broken: Tells of a container's environment whether it never becomes ready.
        calls: Host, what was asked, and of which container, in order.
    """

    fault: Fault = field(default_factory=Fault)
    broken: Callable[[FakeContainer], bool] = lambda _: False
    calls: list[Call] = field(default_factory=list)
    hosts: dict[str, FakeEngine] = field(default_factory=dict)
    dead: bool = False
    numbers: Iterator[int] = field(default_factory=count)

    def begin_anew(self, fault: Fault, broken: Callable[[FakeContainer], bool] = lambda _: False) -> None:
        """Forget everything but what will go wrong."""
        self.fault, self.broken, self.dead = fault, broken, False
        self.calls.clear()
        self.hosts.clear()

    def state(self) -> list[tuple[Any, ...]]:
        """Return all that the engines have, as values."""
        return [
            (
                *(engine.host, each.id, each.name, each.image_id, each.options, each.true_status, each.code),
                *(dict(each.policy), set(each.files), dict(each.archive)),
            )
            for engine in self.hosts.values()
            for each in engine.there.values()
        ]

    def restore(self, state: list[tuple[Any, ...]]) -> None:
        """Bring the engines to a state."""
        for engine in self.hosts.values():
            engine.there.clear()
        for host, identity, name, image, options, status, code, policy, files, archive in state:
            made = FakeContainer(self.hosts[host], identity, name, image, options)
            made.true_status, made.code, made.policy = status, code, dict(policy)
            made.files, made.archive = set(files), dict(archive)
            made.reload_now()
            made.engine.there[identity] = made

    def engine(self, host: str, address: str) -> FakeEngine:
        """Return a new host's engine."""
        self.hosts[host] = FakeEngine(self, host, address)
        return self.hosts[host]

    def listening(self, address: str, port: int) -> FakeContainer | None:
        """Return what listens on a port."""
        for engine in self.hosts.values():
            for container in engine.there.values():
                if engine.address == address and container.status == "running" and port in container.ports:
                    return container
        return None

    def get(self, _: object, url: str, **__: object) -> requests.Response:
        """Answer as the services of the hosts would; takes the place of a session's ``get``."""
        address, _, port = url.split("/")[2].partition(":")
        container = self.listening(address, int(port))
        if container is None:
            raise requests.ConnectionError("Connection refused")
        answer = requests.Response()
        answer.status_code, answer._content = container.answer(url)
        return answer

    def count_engines(self) -> str:
        """Return what an endpoint says of its P and D."""
        counted = ""
        running = [each for engine in self.hosts.values() for each in engine.there.values()]
        for role in ("prefill", "decode"):
            own = [each for each in running if each.labels.get(ROLE) == role and not each.name.endswith("-before")]
            healthy = [each for each in own if each.status == "running" and each.is_ready and not each.files]
            counted += f"cluster.{role}.membership_healthy: {len(healthy)}\n"
            counted += f"cluster.{role}.membership_total: {len(own)}\n"
        return counted


class FakeEngine:
    """A host's engine, as a client of it."""

    def __init__(self, world: World, host: str, address: str) -> None:
        self.world, self.host, self.address = world, host, address
        self.there: dict[str, FakeContainer] = {}
        self.away = 0
        self.containers = self
        self.images = FakeImages(self)
        self.volumes = self
        self.api = self

    def call(self, what: str, container: FakeContainer | None, act: Callable[[], Any]) -> Any:
        """Do what was asked, unless the fault strikes here."""
        world, fault, name = self.world, self.world.fault, container.name if container else ""
        if world.dead:
            raise Killed
        number = len(world.calls)
        world.calls.append((self.host, what, name))
        if number == fault.at:
            fault.struck = world.calls[-1]
            self._strike(fault.kind, container, act)
        with naming(self.host):
            if self.away:
                self.away -= 1
                raise requests.ConnectionError("Connection refused")
            if container is not None and container.id not in self.there:
                raise NotFound(f"no such container: {name}")
            return act()

    def _strike(self, kind: Kind, container: FakeContainer | None, act: Callable[[], Any]) -> None:
        if kind in ("reset", "time-out", "500 after", "Ctrl-C after", "SIGKILL after") and not self.away:
            act()
        if kind == "vanished" and container is not None:
            self.there.pop(container.id, None)
        if kind in ("Ctrl-C", "Ctrl-C after"):
            raise KeyboardInterrupt
        if kind in ("SIGKILL", "SIGKILL after"):
            self.world.dead = True
            raise Killed
        if kind == "engine lost":
            self.away = 1 << 30
        if kind == "engine away":
            self.away = AWAY_FOR
        with naming(self.host):
            if kind == "refused":
                raise requests.ConnectionError("Connection refused")
            if kind == "reset":
                raise requests.ConnectionError("Connection reset by peer")
            if kind == "time-out":
                raise requests.ReadTimeout("Read timed out.")
            if kind in ("500", "500 after", "disk full"):
                response = requests.Response()
                response.status_code = 500
                why = "no space left on device" if kind == "disk full" else "something broke"
                raise APIError(why, response=response, explanation=why)

    # What a client offers, of containers and images.

    def get(self, name: str) -> FakeContainer:
        """Return a container by name or id."""

        def find() -> FakeContainer:
            for container in self.there.values():
                if name in (container.name, container.id):
                    container.reload_now()
                    return container
            raise NotFound(f"no such container: {name}")

        found: FakeContainer = self.call(f"get {name}", None, find)
        return found

    def list(self, *, all: bool = False, filters: Mapping[str, str] | None = None, **__: object) -> list[FakeContainer]:
        """Return the containers that have a label."""
        key, _, value = (filters or {}).get("label", "").partition("=")

        def find() -> list[FakeContainer]:
            found = [each for each in self.there.values() if each.labels.get(key) == value]
            for container in found:
                container.reload_now()
            return [each for each in found if all or each.status == "running"]

        listed: list[FakeContainer] = self.call("list", None, find)
        return listed

    def create(self, image: str, command: object = None, *, name: str, **options: Any) -> FakeContainer:
        """Create a container."""

        def make() -> FakeContainer:
            if any(each.name == name for each in self.there.values()):
                response = requests.Response()
                response.status_code = 409
                raise APIError("Conflict", response=response, explanation=f"the name {name} is in use")
            made = FakeContainer(self, f"id{next(self.world.numbers)}", name, image, options)
            self.there[made.id] = made
            return made

        created: FakeContainer = self.call(f"create {name}", None, make)
        return created

    def import_image_from_data(self, *_: object, **__: object) -> None:
        """Take an empty image."""
        self.call("import", None, lambda: None)


class FakeImages:
    """A host's images: it has all that it is asked for."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def get(self, name: str) -> FakeImage:
        """Return an image."""
        found: FakeImage = self.engine.call(f"image {name}", None, lambda: FakeImage(name))
        return found

    def remove(self, *_: object, **__: object) -> None:
        """Forget an image's name."""
        self.engine.call("forget image", None, lambda: None)


@dataclass(frozen=True)
class FakeImage:
    """An image that its engine calls what everybody does."""

    id: str


class FakeContainer:
    """A container."""

    def __init__(self, engine: FakeEngine, identity: str, name: str, image: str, options: Mapping[str, Any]) -> None:
        self.engine, self.id, self.name, self.image_id, self.options = engine, identity, name, image, options
        self.labels: dict[str, str] = dict(options.get("labels") or {})
        self.true_status, self.code = "created", 0
        self.status = ""
        self.attrs: dict[str, Any] = {}
        self.policy: dict[str, Any] = dict(options.get("restart_policy") or {"Name": "no", "MaximumRetryCount": 0})
        self.files: set[str] = set()
        self.archive: dict[str, bytes] = {}
        self.reload_now()

    @property
    def ports(self) -> tuple[int, ...]:
        """Ports that it listens on while it runs."""
        return tuple(int(port) for port in self.labels.get(PORTS, "").split(",") if port)

    @property
    def is_ready(self) -> bool:
        """Whether it becomes ready at all."""
        return not self.engine.world.broken(self)

    @property
    def true_live(self) -> dict[str, str]:
        """Contents of the files that it reads again."""
        return {path: self.archive.get(path, b"").decode() for path in self.labels.get(LIVE, "").split(",") if path}

    def answer(self, url: str) -> tuple[int, bytes]:
        """Return status and body of a GET."""
        path = "/" + "/".join(url.split("/")[3:])
        if path == HEALTH and DRAINING in self.files:
            return 503, b'{"unfinished": 0}'
        if not self.is_ready:
            return 500, b"starting"
        if path == "/readiness":
            return 200, self.engine.world.count_engines().encode()
        # What every probe of the planner wants to read.
        return 200, b'{"health":"true","id":"tiny","id":"qwen2_5_vl"} LIVE'

    def reload_now(self) -> None:
        """Take the engine's word of it as it is now."""
        self.status = self.true_status
        self.attrs |= {
            "Config": {"Labels": self.labels},
            "State": {"Status": self.true_status, "ExitCode": self.code, "StartedAt": ""},
            "HostConfig": {"RestartPolicy": dict(self.policy)},
            "Image": self.image_id,
            "RestartCount": 0,
        }

    def _call(self, what: str, act: Callable[[], Any]) -> Any:
        return self.engine.call(what, self, act)

    def reload(self) -> None:
        """Ask the engine."""
        self._call("reload", self.reload_now)

    def _turn(self, status: str) -> None:
        self.true_status = status
        if status == "exited":
            self.code = 137
        self.reload_now()

    def start(self) -> None:
        """Start it."""
        self._call("start", lambda: self._turn("running"))

    def stop(self, timeout: int = 10) -> None:
        """Stop it."""
        assert timeout >= 0
        self._call("stop", lambda: self._turn("exited") if self.true_status == "running" else None)

    def restart(self) -> None:
        """Start it again."""
        self._call("restart", lambda: self._turn("running"))

    def rename(self, name: str) -> None:
        """Give it another name."""

        def act() -> None:
            if any(each.name == name for each in self.engine.there.values() if each is not self):
                response = requests.Response()
                response.status_code = 409
                raise APIError("Conflict", response=response, explanation=f"the name {name} is in use")
            self.name = name

        self._call(f"rename to {name}", act)

    def remove(self, **_: object) -> None:
        """Remove it."""
        self._call("remove", lambda: self.engine.there.pop(self.id, None))

    def update(self, restart_policy: Mapping[str, Any]) -> None:
        """Change its restart policy."""
        self._call("update", lambda: self.policy.update(restart_policy))

    def exec_run(self, argv: list[str], **_: object) -> tuple[int, bytes]:
        """Run one of the few commands that a rollout runs."""

        def act() -> tuple[int, bytes]:
            if argv[0] == "touch":
                self.files.add(argv[1])
            elif argv[0] == "rm":
                self.files.discard(argv[-1])
            elif argv[0] == "mv":
                self.archive[argv[-1]] = self.archive.pop(argv[-2])
            elif argv[0] == "python3":
                return 0, b"http.endpoint.downstream_rq_active: 0"
            return 0, b""

        done: tuple[int, bytes] = self._call(f"exec {argv[0]}", act)
        return done

    def logs(self, **_: object) -> bytes:
        """Return what it wrote."""
        text: bytes = self._call("logs", lambda: b"a line\n")
        return text

    def put_archive(self, path: str, data: bytes) -> bool:
        """Write files."""

        def act() -> bool:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for member in archive:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    self.archive["/" + member.name] = stream.read()
            return True

        return bool(self._call("put", act))

    def get_archive(self, path: str) -> tuple[Iterator[bytes], dict[str, Any]]:
        """Read a file."""

        def act() -> tuple[Iterator[bytes], dict[str, Any]]:
            if path not in self.archive:
                raise NotFound(path)
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                member = tarfile.TarInfo(path.rpartition("/")[2])
                member.size = len(self.archive[path])
                archive.addfile(member, io.BytesIO(self.archive[path]))
            return iter([packed.getvalue()]), {}

        found: tuple[Iterator[bytes], dict[str, Any]] = self._call("read", act)
        return found
