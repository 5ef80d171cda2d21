"""The faults: what is done to a running deployment on the lab, and how it is mended.

A fault is a context manager: it has happened when the block begins, and is mended when the block has ended.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tomlkit import TOMLDocument

from workshop.faults.site import Site
from workshop.lab import machine, processes
from workshop.lab.commands import up
from workshop.lab.engine import engine_files
from workshop.lab.layout import SWITCH
from yrpd.deploying.spec import Role
from yrpd.errors import DeployError, EnvironmentFailure

MINUTES = 360.0
VARIABLE = "YRPD_FAULT"  # nothing reads it, and `deploy` exchanges what it was changed for


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: What it is called in the table.
        happens: Makes it happen, and mends it.
        applies: Whether it can happen on a site.
        lasts_s: How long it lasts, whatever is answered meanwhile; 0 until enough is.
    """

    name: str
    happens: Callable[[Site], AbstractContextManager[None]]
    applies: Callable[[Site], bool] = lambda _: True
    lasts_s: float = 0.0


def killed(role: Role, index: int = 0) -> Callable[[Site], AbstractContextManager[None]]:
    """A container's first process gets SIGKILL, which ``deploy.status`` tells; ``deploy`` mends it."""

    @contextmanager
    def happens(site: Site) -> Iterator[None]:
        host, container = site.container(role, index)
        os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)
        container.wait()
        if site.health(host, str(container.name)) == "healthy":
            raise DeployError(f"`deploy.status` calls {container.name} on {host} healthy, and it was killed.")
        yield
        site.deployed()

    return happens


def component_killed(role: Role, program: str) -> Callable[[Site], AbstractContextManager[None]]:
    """One program of a container gets SIGKILL; what watches over it starts it again, and ``deploy`` looks after it."""

    @contextmanager
    def happens(site: Site) -> Iterator[None]:
        host, container = site.container(role)
        found = [line for line in container.top(ps_args="-eo pid,args")["Processes"] if program in line[1].split()[0]]
        if not found:
            raise DeployError(f"No {program} runs in {container.name} on {host}.")
        os.kill(int(found[0][0]), signal.SIGKILL)
        yield
        site.deployed()

    return happens


def stopped(role: Role, index: int = 0) -> Callable[[Site], AbstractContextManager[None]]:
    """All processes of a container get SIGSTOP, and SIGCONT later."""

    @contextmanager
    def happens(site: Site) -> Iterator[None]:
        _, container = site.container(role, index)
        numbers = [int(line[1]) for line in container.top(ps_args="-eo user,pid")["Processes"]]
        for number in numbers:
            os.kill(number, signal.SIGSTOP)
        try:
            yield
        finally:
            for number in numbers:
                os.kill(number, signal.SIGCONT)

    return happens


def engine_killed(role: Role) -> Callable[[Site], AbstractContextManager[None]]:
    """The dockerd of a role's host gets SIGKILL; ``lab.up`` and ``deploy`` mend it."""

    @contextmanager
    def happens(site: Site) -> Iterator[None]:
        _kill_engine(site, site.host_of(role))
        yield
        up(site.deployment.project, site.reporter, site.deployment.hosts_file, site.deployment.pin)
        site.deployed()

    return happens


def _kill_engine(site: Site, host: str) -> None:
    file = engine_files(site.lab.folders(host)).dockerd
    for daemon in [each for each in processes.snapshot() if each.runs("dockerd", file)]:
        os.kill(daemon.pid, signal.SIGKILL)


def cut_off(role: Role) -> Callable[[Site], AbstractContextManager[None]]:
    """The cable of a role's host is pulled, and plugged in again."""

    @contextmanager
    def happens(site: Site) -> Iterator[None]:
        cable = ("ip", "-n", site.lab.namespace(SWITCH), "link", "set", site.host_of(role))
        machine.run((*cable, "down"))
        try:
            yield
        finally:
            machine.run((*cable, "up"))

    return happens


@contextmanager
def powered_off(site: Site) -> Iterator[None]:
    """Every process of both hosts is gone at once; then they boot, and nobody types a command."""
    for host in site.clients:
        while numbers := machine.run(("ip", "netns", "pids", site.lab.namespace(host))).split():
            for number in numbers:
                with suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)
    yield
    up(site.deployment.project, site.reporter, site.deployment.hosts_file, site.deployment.pin)


def gone(role: Role) -> Callable[[Site], AbstractContextManager[None]]:
    """A container is stopped, and started again later."""

    @contextmanager
    def happens(site: Site) -> Iterator[None]:
        _, container = site.container(role)
        container.stop()
        try:
            yield
        finally:
            container.start()

    return happens


def restarts_by_itself(site: Site) -> bool:
    """Return whether Docker starts again what ended, also after a boot."""
    return site.deployment.inventory.containers.restart in ("unless-stopped", "always")


def disk_full(role: Role) -> Callable[[Site], AbstractContextManager[None]]:
    """The disk of a role's host has no byte left; then there is room again, and ``deploy`` mends what died."""

    @contextmanager
    def happens(site: Site) -> Iterator[None]:
        filler = site.lab.folders(site.host_of(role)).data / "filler"
        fill(filler)
        try:
            yield
        finally:
            filler.unlink()
        site.deployed()

    return happens


def has_disk(role: Role) -> Callable[[Site], bool]:
    """Return whether a role's host has a disk of its own (``lab.up --disk-gb``)."""
    return lambda site: is_apart(site.lab.folders(site.host_of(role)).data)


def by_yr(site: Site) -> bool:
    """Return whether ``yr start`` made the cluster."""
    return site.deployment.inventory.datasystem.started_by == "yr"


def is_apart(folder: Path) -> bool:
    """Return whether a folder is on another disk than the machine's root."""
    return os.stat(folder).st_dev != os.stat("/").st_dev


def fill(path: Path) -> None:
    """Write a file that takes all room of a disk of its own.

    Raises:
        EnvironmentFailure: It is the machine's own disk.
    """
    if not is_apart(path.parent):
        raise EnvironmentFailure(
            f"{path.parent} has no disk of its own to fill.", next_command="invoke lab.down lab.up --disk-gb 16"
        )
    with path.open("wb", buffering=0) as stream:
        room, size = os.statvfs(path), 0
        piece = room.f_bavail * room.f_frsize
        while piece >= room.f_bsize:
            try:
                os.posix_fallocate(stream.fileno(), size, piece)
                size += piece
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2


@contextmanager
def image_gone(site: Site) -> Iterator[None]:
    """A host of D loses its containers and its image; ``deploy`` brings both."""
    host = site.host_of("decode")
    client = site.clients[host]
    for spec in site.deployment.specs:
        if spec.host == host:
            client.containers.get(spec.name).remove(force=True, v=True)
    client.images.remove(site.deployment.image.id, force=True)
    yield
    said = site.deployed()
    if not client.images.list(site.deployment.image.reference):
        raise DeployError(f"`deploy` did not bring the image to {host}.", detail=said)


def exchanged(change: Callable[[TOMLDocument], None]) -> Callable[[Site], AbstractContextManager[None]]:
    """``deploy`` exchanges what a change of the inventory touches; then back again."""

    @contextmanager
    def happens(site: Site) -> Iterator[None]:
        site.deployed(site.changed_inventory("exchanged", change))
        yield
        site.deployed()

    return happens


def another_d(value: str) -> Callable[[TOMLDocument], None]:
    """Return a change of all D that nothing reads."""

    def change(inventory: TOMLDocument) -> None:
        for decode in inventory["decode"]:
            decode["environment"] = {**decode.get("environment", {}), VARIABLE: value}

    return change


def another_memory(inventory: TOMLDocument) -> None:
    """Give every DataSystem worker a megabyte more."""
    inventory["datasystem"]["memory_mb"] += 1


def another_endpoint(inventory: TOMLDocument) -> None:
    """Let the endpoint try once more, of which D is told nothing."""
    inventory["endpoint"]["tries"] = 1 + inventory["endpoint"].get("tries", 4)


@contextmanager
def deploy_killed(site: Site) -> Iterator[None]:
    """A ``deploy`` that exchanges D gets SIGKILL while the first new one starts; ``deploy`` goes on."""
    running = site.deploy(site.changed_inventory("killed", another_d("killed")))
    assert running.stdout is not None  # noqa: S101  (it was asked for)
    seen = next((line for line in running.stdout if line.startswith("--> starting")), "")
    running.kill()
    running.communicate()
    if not seen:
        raise DeployError("`deploy` started nothing that could be cut short.")
    yield
    site.deployed()


@contextmanager
def engine_killed_in_rollout(site: Site) -> Iterator[None]:
    """The dockerd of D's host gets SIGKILL when a ``deploy`` has set a D aside; it says so, and the rest serves."""
    running = site.deploy(site.changed_inventory("lost", another_d("lost")))
    assert running.stdout is not None  # noqa: S101  (it was asked for)
    seen = next((line for line in running.stdout if line.startswith("--> starting")), "")
    _kill_engine(site, site.host_of("decode"))
    said, _ = running.communicate()
    if not seen or running.returncode != DeployError.exit_code:
        raise DeployError(f"`deploy` without an engine ended with {running.returncode}.", detail=said)
    yield
    up(site.deployment.project, site.reporter, site.deployment.hosts_file, site.deployment.pin)
    site.deployed()


@contextmanager
def last_d_broken(site: Site) -> Iterator[None]:
    """A ``deploy`` whose last D cannot start: what is new and healthy stays, the last is the old one again."""

    def change(inventory: TOMLDocument) -> None:
        another_d("broken")(inventory)
        inventory["decode"][-1]["environment"]["VLLM_LOGGING_LEVEL"] = "NO SUCH LEVEL"

    running = site.deploy(site.changed_inventory("broken", change))
    said, _ = running.communicate()
    if running.returncode != DeployError.exit_code or "runs again as before" not in said:
        raise DeployError(f"`deploy` of a D that cannot start ended with {running.returncode}.", detail=said)
    yield
    site.deployed()


@contextmanager
def two_deploys(site: Site) -> Iterator[None]:
    """Two ``deploy`` at once, of different inventories: one works, the other says who holds the lock."""
    both = [site.deploy(site.changed_inventory(name, another_d(name))) for name in ("first", "second")]
    said = [each.communicate()[0] for each in both]
    codes = sorted(each.returncode for each in both)
    if codes != [0, DeployError.exit_code] or not any("is locked" in each for each in said):
        raise DeployError(f"Two `deploy` at once ended with {codes}.", detail="\n".join(said))
    yield
    site.deployed()


FAULTS = (
    Fault("kill -9 of a P", killed("prefill")),
    Fault("kill -9 of a D", killed("decode")),
    Fault("kill -9 of the endpoint", killed("endpoint")),
    Fault("kill -9 of P's worker", killed("worker", 0)),
    Fault("kill -9 of D's worker", killed("worker", -1)),
    Fault("kill -9 of etcd", killed("etcd")),
    Fault("kill -9 of `yr`'s datasystem_worker, D's host", component_killed("worker", "datasystem_worker"), by_yr),
    Fault("kill -9 of `yr`'s etcd", component_killed("etcd", "etcd"), by_yr),
    Fault("kill -9 of dockerd, D's host", engine_killed("decode")),
    Fault("kill -9 of dockerd, the endpoint's host", engine_killed("endpoint")),
    Fault("SIGSTOP of a P", stopped("prefill")),
    Fault("SIGSTOP of a D", stopped("decode")),
    Fault("SIGSTOP of the endpoint", stopped("endpoint")),
    Fault("SIGSTOP of P's worker", stopped("worker", 0)),
    Fault("SIGSTOP of D's worker", stopped("worker", -1)),
    Fault("SIGSTOP of etcd", stopped("etcd")),
    Fault("network cut, D's host", cut_off("decode")),
    Fault("network cut, P's, etcd's and the endpoint's host", cut_off("endpoint")),
    Fault("disk full, D's host", disk_full("decode"), has_disk("decode")),
    Fault("disk full, P's, etcd's and the endpoint's host", disk_full("endpoint"), has_disk("endpoint")),
    Fault("image missing, D's host", image_gone),
    Fault("rolling update of every D", exchanged(another_d("exchanged"))),
    Fault("rolling update of every worker", exchanged(another_memory)),
    Fault("rolling update of the endpoint", exchanged(another_endpoint)),
    Fault("`deploy` killed half way, and run again", deploy_killed),
    Fault("two `deploy` at once", two_deploys),
    Fault("`deploy` whose last D cannot start", last_d_broken),
    Fault("kill -9 of dockerd, D's host, in the middle of `deploy`", engine_killed_in_rollout),
    # The DataSystem's worker ends itself after 300 s without etcd. Nobody mends these.
    Fault("network cut for 6 minutes, D's host", cut_off("decode"), restarts_by_itself, MINUTES),
    Fault("network cut for 6 minutes, P's and etcd's host", cut_off("etcd"), restarts_by_itself, MINUTES),
    Fault("SIGSTOP of D's worker for 6 minutes", stopped("worker", -1), restarts_by_itself, MINUTES),
    Fault("etcd gone for 6 minutes", gone("etcd"), restarts_by_itself, MINUTES),
    Fault("both hosts powered off and on", powered_off, restarts_by_itself),
)
