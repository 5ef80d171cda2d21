"""What of a lab is on this machine right now. It only reads; decisions are made elsewhere, from what it returns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from requests.exceptions import RequestException

from workshop.lab import processes
from workshop.lab.lab_record import Record, read_record
from workshop.lab.layout import BUILDER, NAMESPACES, SWITCH, Lab
from workshop.lab.processes import Process
from yrpd.docker.sdk import DockerClient, DockerException
from yrpd.errors import EnvironmentFailure

PING_TIMEOUT_S = 3
CGROUPS = Path("/sys/fs/cgroup")
LAB_SHELLS = 8  # a few machines beside what people run in terminals; much more starves the engines and the clients
MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Link:
    """A network interface.

    Attributes:
        name: Its name.
        up: Whether it is set up.
        addresses: IPv4 addresses with prefix lengths, such as ``10.77.0.1/24``.
        master: The bridge that it is a port of; empty when none.
    """

    name: str
    up: bool
    addresses: tuple[str, ...] = ()
    master: str = ""


@dataclass(frozen=True)
class Route:
    """A destination that the machine has a route to."""

    destination: IPv4Network
    interface: str


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo, proc(5)."""

    point: Path
    kind: str
    root: str


@dataclass(frozen=True)
class Observation:
    """A lab as it is found.

    Attributes:
        record: Who brought it up; ``None`` when nobody did.
        parts: Names of hosts, switch and builder that left any trace.
        namespaces: Part to the inode of its network namespace.
        dead_names: Parts whose name is in the namespace folder with no namespace behind it.
        links: Part to its interfaces; the machine's own are under the empty name.
        routes: The machine's routes.
        gateways: Part to the gateway of its default route.
        processes: Processes of the lab.
        answering: Parts whose engine answers.
        mounts: Mount points below the lab's folders, in mounting order.
        cgroups: Control groups of the lab, deepest first.
        cpu_weight: Where the share of the processors is written, and that of ``LAB_SHELLS`` shells; ``None`` where
            processes are not weighed by groups.
        folders: The lab's folders that exist.
    """

    record: Record | None = None
    parts: tuple[str, ...] = ()
    namespaces: dict[str, int] = field(default_factory=dict)
    dead_names: tuple[str, ...] = ()
    links: dict[str, tuple[Link, ...]] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    gateways: dict[str, str] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    answering: frozenset[str] = frozenset()
    mounts: tuple[Path, ...] = ()
    cgroups: tuple[Path, ...] = ()
    cpu_weight: tuple[Path, int] | None = None
    folders: tuple[Path, ...] = ()

    def link(self, part: str, name: str) -> Link | None:
        """Return an interface by name, or ``None``."""
        return next((link for link in self.links.get(part, ()) if link.name == name), None)

    @property
    def is_nothing(self) -> bool:
        """Whether no trace of the lab is left."""
        traces = (self.namespaces, self.dead_names, self.links.get(""), self.processes, self.mounts, self.cgroups)
        return not any(traces) and not self.folders


def observe(lab: Lab) -> Observation:
    """Look at everything that belongs to a lab.

    Args:
        lab: Its hosts may be empty; those that left a trace are found by the lab's name.
    """
    mounts = read_mounts(MOUNTINFO.read_text(encoding="utf-8"))
    record = read_record(lab)
    parts = _parts(lab, record)
    namespaces, dead_names = _namespaces(lab, parts, mounts)
    alive = processes.of_lab(processes.snapshot(), lab.run, lab.cgroup, namespaces.values())
    links = {part: read_links(_ip("-n", lab.namespace(part), "addr", "show")) for part in namespaces}
    links[""] = tuple(link for link in read_links(_ip("addr", "show")) if link.name == lab.interface)
    return Observation(
        record=record,
        parts=parts,
        namespaces=namespaces,
        dead_names=dead_names,
        links=links,
        routes=read_routes(_ip("-4", "route", "show", "table", "all")),
        gateways={part: read_gateway(_ip("-n", lab.namespace(part), "-4", "route", "show")) for part in namespaces},
        processes=tuple(alive),
        answering=frozenset(part for part in parts if part != SWITCH and answers(lab.folders(part).socket)),
        mounts=tuple(m.point for m in mounts if m.point.is_relative_to(lab.run) or m.point.is_relative_to(lab.data)),
        cgroups=tuple(_cgroups(lab)),
        cpu_weight=_cpu_weight(lab),
        folders=tuple(folder for folder in (lab.data, lab.run) if folder.is_dir()),
    )


def is_mounted(folder: Path) -> bool:
    """Return whether something is mounted on a folder; os.path.ismount does not see a folder bound to itself."""
    return any(mount.point == folder for mount in read_mounts(MOUNTINFO.read_text(encoding="utf-8")))


def answers(socket: Path) -> bool:
    """Return whether a Docker engine answers on a socket."""
    if not socket.is_socket():
        return False
    try:
        client = DockerClient(base_url=f"unix://{socket}", timeout=PING_TIMEOUT_S)
    except (DockerException, RequestException):
        return False
    try:
        return bool(client.ping())
    except (DockerException, RequestException):
        return False
    finally:
        client.close()


def read_mounts(mountinfo: str) -> list[Mount]:
    """Parse mountinfo, proc(5): spaces and the like are octal escapes."""
    mounts = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split(" ")[3:5]
        mounts.append(Mount(Path(_unescape(point)), right.split(" ")[0], _unescape(root)))
    return mounts


def read_links(document: Iterable[dict[str, Any]]) -> tuple[Link, ...]:
    """Turn the JSON of ``ip addr`` into links."""
    return tuple(
        Link(
            name=entry["ifname"],
            up="UP" in entry.get("flags", ()),
            addresses=tuple(
                f"{a['local']}/{a['prefixlen']}" for a in entry.get("addr_info", ()) if a["family"] == "inet"
            ),
            master=entry.get("master", ""),
        )
        for entry in document
        if entry
    )


def read_routes(document: Iterable[dict[str, Any]]) -> tuple[Route, ...]:
    """Turn the JSON of ``ip route`` into routes; the default route leads everywhere, so it is left out."""
    return tuple(
        Route(IPv4Network(entry["dst"], strict=False), entry.get("dev", ""))
        for entry in document
        if entry.get("dst", "default") != "default"
    )


def read_gateway(document: Iterable[dict[str, Any]]) -> str:
    """Return the gateway of the default route in the JSON of ``ip route``; empty when there is none."""
    return next((str(entry.get("gateway", "")) for entry in document if entry.get("dst") == "default"), "")


def _parts(lab: Lab, record: Record | None) -> tuple[str, ...]:
    names = {SWITCH, BUILDER} | {host.name for host in lab.hosts}
    names.update(host.name for host in (record.hosts if record else ()))
    for folder in (lab.run, lab.data):
        if folder.is_dir():
            names.update(entry.name for entry in folder.iterdir() if entry.is_dir())
    return tuple(sorted(names))


def _namespaces(lab: Lab, parts: Iterable[str], mounts: list[Mount]) -> tuple[dict[str, int], tuple[str, ...]]:
    own = Path("/proc/self/ns/net").stat().st_ino
    # The folder itself may be reached as /var/run/netns, so names are compared, not paths.
    held = {m.point.name: m.root for m in mounts if m.kind == "nsfs" and m.point.parent.name == NAMESPACES.name}
    alive: dict[str, int] = {}
    dead = []
    for part in parts:
        name = lab.namespace(part)
        inode = held.get(name, "").removeprefix("net:[").removesuffix("]")
        if inode.isdigit() and int(inode) != own:
            alive[part] = int(inode)
        elif lab.namespace_file(part).exists():
            dead.append(part)
    return alive, tuple(dead)


def _cgroups(lab: Lab) -> list[Path]:
    tops = [path for path in (CGROUPS / lab.cgroup, *CGROUPS.glob(f"*/{lab.cgroup}")) if path.is_dir()]
    found = {folder.resolve() for top in tops for folder in (top, *(p for p in top.rglob("*") if p.is_dir()))}
    return sorted(found, key=lambda path: (-len(path.parts), path))


def _cpu_weight(lab: Lab) -> tuple[Path, int] | None:
    """Return the file of the kernel's older or newer interface (Documentation/scheduler, admin-guide/cgroup-v2)."""
    if (CGROUPS / "cpu" / "cpu.shares").exists():
        return CGROUPS / "cpu" / lab.cgroup / "cpu.shares", LAB_SHELLS * 1024
    controllers = CGROUPS / "cgroup.subtree_control"
    if controllers.exists() and "cpu" in controllers.read_text(encoding="ascii").split():
        return CGROUPS / lab.cgroup / "cpu.weight", LAB_SHELLS * 100
    return None


def _ip(*arguments: str) -> list[dict[str, Any]]:
    argv = ["ip", "-j", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentFailure(
            f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.returncode}.", next_command="invoke lab.down"
        )
    parsed: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return parsed


def _unescape(text: str) -> str:
    return text.encode("latin-1", "replace").decode("unicode_escape") if "\\" in text else text
