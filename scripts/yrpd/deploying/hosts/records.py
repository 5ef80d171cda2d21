"""What a host remembers of its deployments, and who works on it now: two containers that are never started.

A container's name is unique on its engine, so creating one is an atomic lock on a host of which nothing but the engine
can be reached. The record lives in the other one's writable layer.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import socket
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yrpd.deploying.hosts.engines import reason, surely
from yrpd.deploying.hosts.model_folder import EMPTY_TAR, read_file
from yrpd.deploying.spec import LABEL_PREFIX
from yrpd.docker.sdk import APIError, Container, DockerClient, NotFound
from yrpd.errors import DeployError
from yrpd.reporting import Reporter

LOCK = f"{LABEL_PREFIX}lock"
HOLDER = f"{LABEL_PREFIX}holder"
RECORD = f"{LABEL_PREFIX}record"
RECORD_FILE = "record.json"
EMPTY_IMAGE = "yrpd-remembers:empty"
CONFLICT_STATUS = 409
KEPT_ENTRIES = 200
KEPT_RELEASES = 5
UNKNOWN = "unknown"  # the owner of a lock that does not say


@dataclass(frozen=True)
class Holder:
    """Who holds a host's lock.

    Attributes:
        user: Login name, or its number where it has none.
        machine: The machine that the command runs on.
        pid: The command's process there.
        began: When that process began, in clock ticks since its machine's boot: tells a reused pid.
        since: When the lock was taken, ISO 8601.
        command: What is being done.
        space: The boot and the pid namespace that the pid counts in: a container may have its host's name.
    """

    user: str
    machine: str
    pid: int
    began: str
    since: str
    command: str
    space: str = ""

    @classmethod
    def here(cls, command: str) -> Holder:
        """Return this process as a holder."""
        now = datetime.now(tz=UTC).isoformat(timespec="seconds")
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        return cls(user, socket.gethostname(), os.getpid(), _began(os.getpid()), now, command, _space())

    @property
    def owner(self) -> str:
        """Who, as ``deploy.unlock --owner`` wants it."""
        return f"{self.user}@{self.machine}"

    def is_gone(self) -> bool:
        """Return whether it was a process that could be seen from here, and no longer runs."""
        return self.machine == socket.gethostname() and self.space == _space() and _began(self.pid) != self.began

    def __str__(self) -> str:
        """Return a half sentence."""
        return f"{self.command} of {self.owner} (pid {self.pid}) since {self.since}"


def _began(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _space() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


@contextmanager
def locked(clients: Mapping[str, DockerClient], deployment: str, command: str, reporter: Reporter) -> Iterator[None]:
    """Hold the lock of every host for as long as the block runs.

    A lock whose holder was a process of this machine and has ended, such as one that was killed, is taken over.

    Raises:
        DeployError: Somebody else works there; the message says who, and since when.
    """
    holder = Holder.here(command)
    asked: list[str] = []
    try:
        # Always in the same order, so that two that want all hosts cannot each hold one and wait.
        for host in sorted(clients):
            asked.append(host)
            _take(clients[host], host, deployment, holder, reporter)
        yield
    finally:
        for host in reversed(asked):
            _let_go(clients[host], host, deployment, holder, reporter)


def _let_go(client: DockerClient, host: str, deployment: str, holder: Holder, reporter: Reporter) -> None:
    """Give a lock back; asked of the engine, since one whose answer was lost may have been taken all the same."""

    def remove() -> None:
        with suppress(NotFound):
            container = client.containers.get(f"{deployment}-lock")
            if _holder(container) == holder:
                container.remove(force=True)
        _forget_image(client)

    if error := surely(remove):
        reporter.say(f"    the lock on {host} stays ({reason(error)}); `invoke deploy.unlock` removes it")


def _take(client: DockerClient, host: str, deployment: str, holder: Holder, reporter: Reporter) -> None:
    name, other = f"{deployment}-lock", None
    labels = {LOCK: deployment, HOLDER: json.dumps(vars(holder))}
    for _ in range(3):
        try:
            _never_started(client, name, labels)
            return
        except APIError as error:
            if error.status_code != CONFLICT_STATUS:
                raise DeployError(f"{host} cannot be locked: {error.explanation}.") from error
        try:
            present = client.containers.get(name)
        except NotFound:
            continue
        other = _holder(present)
        if other is None or not other.is_gone():
            break
        reporter.say(f"    the lock on {host} is taken over: {other} has ended")
        with suppress(NotFound):
            present.remove(force=True)
    raise DeployError(
        f"{host} is locked: {other or 'somebody'} works on {deployment} there.",
        next_command=f"invoke deploy.unlock --owner {other.owner if other else UNKNOWN}"
        "   (only if that command no longer runs)",
    )


def holders(clients: Mapping[str, DockerClient], deployment: str) -> dict[str, tuple[Holder | None, Container]]:
    """Return who holds the lock of each host that is locked; ``None`` where it does not say."""
    found = {}
    for host, client in clients.items():
        with suppress(NotFound):
            container = client.containers.get(f"{deployment}-lock")
            found[host] = (_holder(container), container)
    return found


def _holder(container: Container) -> Holder | None:
    try:
        return Holder(**json.loads(container.labels[HOLDER]))
    except (KeyError, ValueError, TypeError):
        return None


def remember(
    client: DockerClient, deployment: str, entry: Mapping[str, Any], specs: Sequence[Mapping[str, Any]]
) -> None:
    """Add to a host's record.

    Args:
        client: The host's engine.
        deployment: The deployment's name.
        entry: What was done: time, who, what, outcome.
        specs: The host's containers after it; none when the deployment does not stand after it.
    """
    record = recall(client, deployment)
    record["entries"] = [*record["entries"], dict(entry)][-KEPT_ENTRIES:]
    if specs:
        release = {"id": entry["release"], "time": entry["time"], "specs": [dict(spec) for spec in specs]}
        others = [each for each in record["releases"] if each["id"] != release["id"]]
        record["releases"] = [*others, release][-KEPT_RELEASES:]
    content = json.dumps(record, sort_keys=True).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(RECORD_FILE)
        member.size, member.mode = len(content), 0o600
        tar.addfile(member, io.BytesIO(content))
    container = _record(client, deployment) or _never_started(client, f"{deployment}-record", {RECORD: deployment})
    container.put_archive("/", archive.getvalue())
    _forget_image(client)


def recall(client: DockerClient, deployment: str) -> dict[str, Any]:
    """Return a host's record: ``entries``, oldest first, and ``releases``, oldest first; empty when there is none."""
    container = _record(client, deployment)
    content = read_file(container, f"/{RECORD_FILE}") if container else None
    try:
        loaded = json.loads(content) if content else {}
    except ValueError:
        loaded = {}
    return {"entries": loaded.get("entries", []), "releases": loaded.get("releases", [])}


def forget(client: DockerClient, deployment: str) -> None:
    """Remove a host's record."""
    if container := _record(client, deployment):
        container.remove(force=True)
    _forget_image(client)


def _record(client: DockerClient, deployment: str) -> Container | None:
    try:
        container = client.containers.get(f"{deployment}-record")
    except NotFound:
        return None
    return container if container.labels.get(RECORD) == deployment else None


def _never_started(client: DockerClient, name: str, labels: Mapping[str, str]) -> Container:
    repository, _, tag = EMPTY_IMAGE.partition(":")
    client.api.import_image_from_data(EMPTY_TAR, repository=repository, tag=tag)
    return client.containers.create(EMPTY_IMAGE, ["/nothing"], name=name, labels=dict(labels), network_mode="none")


def _forget_image(client: DockerClient) -> None:
    # Containers keep what they need of it; without its name nothing of ours is left in lists of images.
    with suppress(APIError):
        client.images.remove(EMPTY_IMAGE, force=True)
