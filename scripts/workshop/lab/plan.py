"""What has to be done to get from a lab as found to a lab that is up. Pure: nothing here touches the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from workshop.lab.engine import containerd_configuration, dockerd_configuration, engine_files
from workshop.lab.layout import BUILDER, SWITCH, Lab, LabHost
from workshop.lab.observe import Observation, Route
from workshop.lab.processes import Process

BRIDGE = "br0"  # inside the switch's namespace: rules that an ordinary dockerd leaves in the machine's cannot reach it
HOST_INTERFACE = "eth0"
MACHINE_PORT = "machine"
HALF_DEAD_GRACE_S = 3.0  # a dockerd without its containerd waits in vain for its containers to end


@dataclass(frozen=True)
class Run:
    """Run a command to its end."""

    what: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Write:
    """Write a file, and its folder when that is missing."""

    what: str
    path: Path
    content: str


@dataclass(frozen=True)
class Forget:
    """Remove a file that a dead process left."""

    what: str
    path: Path


@dataclass(frozen=True)
class Start:
    """Start a process that outlives this one; what it says is appended to a log."""

    what: str
    argv: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class End:
    """End processes of the lab, after that many seconds by force."""

    what: str
    processes: tuple[Process, ...]
    grace_s: float


Step = Run | Write | Forget | Start | End


def plan_network(lab: Lab, seen: Observation) -> tuple[Step, ...]:
    """Return the steps that join the hosts and the machine; none when all is as it should be.

    The lab's network is a bridge in a namespace of its own. A host is a namespace with one end of a veth pair; the
    machine itself has such an end too.
    """
    return tuple(_network_steps(lab, seen))


def plan_engine(lab: Lab, part: str, seen: Observation, *, major: int, overlaid: bool = False) -> tuple[Step, ...]:
    """Return the steps that start a part's engine; none when both its processes run.

    When only one of the two runs, it is ended and both are started: a dockerd that lost its containerd has lost its
    containers.

    Args:
        lab: The lab.
        part: The host's name, or the builder.
        seen: The lab as found.
        major: dockerd's major version.
        overlaid: Whether a view of the host's own is made before.
    """
    folders = lab.folders(part)
    files = engine_files(folders)
    daemons = [p for p in seen.processes if p.runs("dockerd", files.dockerd)]
    supervisors = [p for p in seen.processes if p.runs("containerd", files.containerd)]
    if daemons and supervisors:
        return ()
    view = (f"--mount={lab.view(part)}",) if overlaid or lab.view(part) in seen.mounts else ()
    inside = () if part == BUILDER else ("nsenter", f"--net={lab.namespace_file(part)}", *view)
    steps: list[Step] = []
    if daemons or supervisors:
        steps.append(End(f"{part}: end what is left of its engine", (*daemons, *supervisors), HALF_DEAD_GRACE_S))
    if seen.cpu_weight:
        # Else all hosts of the lab together weigh as much as one shell: whatever a terminal runs, at any nice value.
        file, weight = seen.cpu_weight
        steps.append(Write(f"{part}: weigh the lab as machines of their own", file, str(weight)))
    steps += [
        Write(f"{part}: configure containerd", files.containerd, containerd_configuration(folders)),
        Write(f"{part}: configure dockerd", files.dockerd, dockerd_configuration(lab, part, major=major)),
        Forget(f"{part}: forget the process number of an ended dockerd", folders.pid_file),
        Start(
            f"{part}: start containerd",
            (*inside, "containerd", "--config", str(files.containerd)),
            files.containerd_log,
        ),
        Start(f"{part}: start dockerd", (*inside, "dockerd", "--config-file", str(files.dockerd)), files.dockerd_log),
    ]
    return tuple(steps)


def plan_disk(lab: Lab, part: str, seen: Observation, gigabytes: int) -> tuple[Step, ...]:
    """Return the steps that give a host a disk of its own; a host that is there already keeps what it has.

    Args:
        lab: The lab.
        part: The host's name.
        seen: The lab as found.
        gigabytes: The disk's size; 0 for none. The file behind it only takes what is written.
    """
    data = lab.folders(part).data
    if not gigabytes or part in seen.namespaces or data in seen.mounts:
        return ()
    file = str(data.with_suffix(".disk"))
    return (
        Run(f"{part}: make the folder for its disk", ("mkdir", "-p", str(data))),
        Run(f"{part}: make its disk", ("truncate", f"--size={gigabytes}G", file)),
        Run(f"{part}: make its file system", ("mkfs.ext4", "-q", "-m", "0", file)),
        Run(f"{part}: mount its disk", ("mount", "-o", "loop", file, str(data))),
    )


def newly_overlaid(seen: Observation, over: Mapping[str, Mapping[str, Path]]) -> dict[str, Mapping[str, Path]]:
    """Return what of an overlay is for hosts that are not there yet."""
    return {part: tops for part, tops in over.items() if tops and part not in seen.namespaces}


def plan_views(lab: Lab, seen: Observation, over: Mapping[str, Mapping[str, Path]]) -> tuple[Step, ...]:
    """Return the steps that lay files over the machine's own, each seen by one host's engine alone.

    The engine's processes get a mount namespace, in which read-only overlays hide what the machine has there. A host
    that is there already keeps what it sees.

    Args:
        lab: The lab.
        seen: The lab as found.
        over: By host: folders below ``/`` by name, such as ``etc``, each with the folder that lies over it.
    """
    new = newly_overlaid(seen, over)
    if not new:
        return ()
    steps: list[Step] = [Write(f"{part}: make the file of its view", lab.view(part), "") for part in new]
    if lab.views not in seen.mounts:
        # A mount namespace is only held open below a mount that tells no other of what is mounted there.
        views = str(lab.views)
        steps.append(Run("machine: make the views' folder a mount", ("mount", "--bind", views, views)))
        steps.append(Run("machine: keep that mount to itself", ("mount", "--make-private", views)))
    for part, tops in new.items():
        view = str(lab.view(part))
        steps.append(Run(f"{part}: make its view", ("unshare", f"--mount={view}", "--propagation", "private", "true")))
        for name, folder in tops.items():
            mount = ("mount", "-t", "overlay", "-o", f"ro,lowerdir={folder}:/{name}", "overlay", f"/{name}")
            steps.append(Run(f"{part}: lay its /{name} over the machine's", ("nsenter", f"--mount={view}", *mount)))
    return tuple(steps)


def overlapping_route(network: IPv4Network, routes: tuple[Route, ...], own_interface: str) -> Route | None:
    """Return a route that the lab's subnet would take packets from, or ``None``."""
    for route in routes:
        if route.interface != own_interface and route.destination.overlaps(network):
            return route
    return None


def describe(step: Step) -> dict[str, object]:
    """Return a step as it is shown and printed as JSON."""
    document: dict[str, object] = {"what": step.what}
    if isinstance(step, Run | Start):
        document["argv"] = list(step.argv)
    if isinstance(step, Write | Forget):
        document["path"] = str(step.path)
    if isinstance(step, End):
        document["pids"] = [process.pid for process in step.processes]
    return document


def _network_steps(lab: Lab, seen: Observation) -> Iterator[Step]:
    for part in (SWITCH, *(host.name for host in lab.hosts)):
        yield from _namespace_steps(lab, part, seen)
    switch = lab.namespace(SWITCH)
    bridge = seen.link(SWITCH, BRIDGE)
    if bridge is None:
        yield Run("switch: make the bridge", ("ip", "-n", switch, "link", "add", BRIDGE, "type", "bridge"))
    if bridge is None or not bridge.up:
        yield Run("switch: set the bridge up", ("ip", "-n", switch, "link", "set", BRIDGE, "up"))
    for host in lab.hosts:
        yield from _host_steps(lab, host, seen)
    yield from _machine_steps(lab, seen)


def _namespace_steps(lab: Lab, part: str, seen: Observation) -> Iterator[Step]:
    name = lab.namespace(part)
    if part in seen.dead_names:
        yield Run(f"{part}: remove a namespace's dead name", ("ip", "netns", "delete", name))
    if part not in seen.namespaces:
        yield Run(f"{part}: make the network namespace", ("ip", "netns", "add", name))
    loopback = seen.link(part, "lo")
    if loopback is None or not loopback.up:
        yield Run(f"{part}: set loopback up", ("ip", "-n", name, "link", "set", "lo", "up"))


def _host_steps(lab: Lab, host: LabHost, seen: Observation) -> Iterator[Step]:
    name, switch = lab.namespace(host.name), lab.namespace(SWITCH)
    # A pair is made in one step and goes with either of its namespaces, so one end tells of both.
    if seen.link(host.name, HOST_INTERFACE) is None:
        ends = (
            "netns",
            name,
            "address",
            _mac(host.address),
            "type",
            "veth",
            "peer",
            "name",
            host.name,
            "netns",
            switch,
        )
        yield Run(f"{host.name}: plug it into the switch", ("ip", "link", "add", HOST_INTERFACE, *ends))
    yield from _port_steps(lab, host.name, seen)
    yield from _address_steps(("ip", "-n", name), host.name, HOST_INTERFACE, f"{host.address}/24", seen, host.name)
    gateway = str(lab.machine_address)
    if seen.gateways.get(host.name) != gateway:
        # It leads nowhere further, since nobody translates the lab's addresses; but programs such as `yr` learn
        # their host's own address from the default route.
        route = ("route", "replace", "default", "via", gateway)
        yield Run(f"{host.name}: give it a default route", ("ip", "-n", name, *route))


def _machine_steps(lab: Lab, seen: Observation) -> Iterator[Step]:
    if seen.link("", lab.interface) is None:
        peer = ("type", "veth", "peer", "name", MACHINE_PORT, "netns", lab.namespace(SWITCH))
        ends = ("address", _mac(lab.machine_address), *peer)
        yield Run("machine: plug it into the switch", ("ip", "link", "add", lab.interface, *ends))
    yield from _port_steps(lab, MACHINE_PORT, seen)
    yield from _address_steps(("ip",), "machine", lab.interface, f"{lab.machine_address}/24", seen, "")


def _port_steps(lab: Lab, port: str, seen: Observation) -> Iterator[Step]:
    link = seen.link(SWITCH, port)
    ip = ("ip", "-n", lab.namespace(SWITCH), "link", "set", port)
    if link is None or link.master != BRIDGE:
        yield Run(f"switch: join port {port} to the bridge", (*ip, "master", BRIDGE))
    if link is None or not link.up:
        yield Run(f"switch: set port {port} up", (*ip, "up"))


def _address_steps(
    ip: tuple[str, ...], who: str, interface: str, address: str, seen: Observation, part: str
) -> Iterator[Step]:
    link = seen.link(part, interface)
    if link is None or address not in link.addresses:
        yield Run(f"{who}: give it address {address}", (*ip, "address", "replace", address, "dev", interface))
    if link is None or not link.up:
        yield Run(f"{who}: set its interface up", (*ip, "link", "set", interface, "up"))


def _mac(address: IPv4Address) -> str:
    """Return a hardware address that belongs to an IPv4 address.

    An interface that is made anew keeps it, so no neighbour goes on sending to one that is gone. 02 marks addresses
    that no maker of hardware gave out.
    """
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x00, *address.packed))
