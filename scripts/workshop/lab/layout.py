"""What a lab is: two or more real Docker hosts on one machine, and where everything of it lives.

All names derive from the lab's name and the hosts', so that several labs stand side by side and a lab can be found
again by nothing but its name.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from yrpd.errors import ConfigurationError

DEFAULT_LAB = "yrpd-lab"
PREFIX_LENGTH = 24
MACHINE_OCTET = 254  # the machine's own address in the lab's subnet
SWITCH = "switch"
BUILDER = "builder"

# A lab removes /run/NAME and /var/lib/NAME, so a name outside this family is never accepted. 15 is the kernel's limit
# for the name of a network interface.
_LAB_NAME = r"yrpd-[a-z0-9](?:[a-z0-9-]{0,8}[a-z0-9])?"
_HOST_NAME = r"[a-z](?:[a-z0-9-]{0,13}[a-z0-9])?"
_ENGINE = re.compile(r"unix:///run/(?P<lab>yrpd-[^/]*)/(?P<host>[^/]+)/docker\.sock")


@dataclass(frozen=True)
class Folders:
    """Where one engine keeps its things: ``run`` is gone with the lab, ``data`` holds images and containers."""

    run: Path
    data: Path

    @property
    def socket(self) -> Path:
        """The Docker API."""
        return self.run / "docker.sock"

    @property
    def engine(self) -> str:
        """The address for Docker clients."""
        return f"unix://{self.socket}"

    @property
    def pid_file(self) -> Path:
        """Written by dockerd, which refuses to start over a stale one."""
        return self.run / "docker.pid"

    @property
    def containerd_socket(self) -> Path:
        """The engine's own containerd; never the machine's."""
        return self.run / "containerd.sock"

    @property
    def containerd_state(self) -> Path:
        """Where containerd keeps one folder for each running container."""
        return self.run / "containerd"


@dataclass(frozen=True)
class LabHost:
    """One host of the lab.

    Attributes:
        name: Its name in the hosts file.
        address: Its own address in the lab's subnet.
    """

    name: str
    address: IPv4Address


@dataclass(frozen=True)
class Lab:
    """A lab by name, with the hosts that belong to it.

    Attributes:
        name: Names everything that the lab makes.
        hosts: In the order of the hosts file; empty where only the name matters.
    """

    name: str = DEFAULT_LAB
    hosts: tuple[LabHost, ...] = ()

    @property
    def run(self) -> Path:
        """Sockets, configuration, logs and the lab's record."""
        return Path("/run") / self.name

    @property
    def data(self) -> Path:
        """Images and containers of the engines."""
        return Path("/var/lib") / self.name

    @property
    def record_file(self) -> Path:
        """Who brought the lab up, and when."""
        return self.run / "lab.json"

    @property
    def lock_file(self) -> Path:
        """Held while a lab command works."""
        return Path("/run") / f"{self.name}.lock"

    @property
    def interface(self) -> str:
        """The machine's own interface into the lab's network."""
        return self.name

    @property
    def cgroup(self) -> str:
        """The control group above all containers of the lab, below each hierarchy's top."""
        return self.name

    @property
    def network(self) -> IPv4Network:
        """The subnet of the hosts."""
        return IPv4Network((self.hosts[0].address, PREFIX_LENGTH), strict=False)

    @property
    def machine_address(self) -> IPv4Address:
        """The address under which the machine itself is in the lab's network."""
        return self.network.network_address + MACHINE_OCTET

    def namespace(self, part: str) -> str:
        """Return the name of a host's, or the switch's, network namespace."""
        return f"{self.name}-{part}"

    def namespace_file(self, part: str) -> Path:
        """Return where the namespace is held open."""
        return NAMESPACES / self.namespace(part)

    @property
    def views(self) -> Path:
        """Where the hosts' mount namespaces are held open; those that see the machine's own files have none."""
        return self.run / "views"

    def view(self, part: str) -> Path:
        """Return where a host's mount namespace is held open, in which other files lie over the machine's."""
        return self.views / part

    def folders(self, part: str) -> Folders:
        """Return the folders of a host's engine, or of the builder's."""
        return Folders(self.run / part, self.data / part)


NAMESPACES = Path("/run/netns")  # where `ip netns` keeps names


class _Host(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str
    address: str
    engine: str


class _HostsFile(BaseModel):
    model_config = ConfigDict(extra="ignore")
    hosts: list[_Host]


def named_lab(name: str = DEFAULT_LAB) -> Lab:
    """Return a lab known by its name only.

    Raises:
        ConfigurationError: The name could collide with something that is not a lab.
    """
    if not re.fullmatch(_LAB_NAME, name):
        raise ConfigurationError(
            f"{name!r} is no name for a lab: it must be 'yrpd-' and up to ten of a-z, 0-9 and '-'.",
            next_command="invoke lab.down",
        )
    return Lab(name)


def read_lab(path: Path) -> Lab:
    """Return the lab that a hosts file describes: its hosts whose engine is ``unix:///run/LAB/HOST/docker.sock``.

    Other hosts and other keys of the file are somebody else's business.

    Raises:
        ConfigurationError: The file cannot be read, or what it says is no lab; the field is named.
    """
    try:
        document = _HostsFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise _wrong(path, "does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, f"cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise _wrong(path, f"is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return _lab_of(path, document.hosts)


def read_overlay(folder: Path, lab: Lab) -> dict[str, dict[str, Path]]:
    """Return what lies over each host's files: its folders of ``folder/HOST``, by their names.

    Args:
        folder: One folder a host, such as ``host1/etc/hccn.conf``.
        lab: The lab.

    Raises:
        ConfigurationError: There is nothing for any of its hosts, or something for a host that it does not have.
    """
    own = {host.name: folder.resolve() / host.name for host in lab.hosts}
    found = {
        name: {top.name: top for top in sorted(mine.iterdir()) if top.is_dir()}
        for name, mine in own.items()
        if mine.is_dir()
    }
    such = own[lab.hosts[0].name] / "etc"
    strangers = sorted({entry.name for entry in folder.iterdir()} - set(own)) if folder.is_dir() else []
    if strangers or not any(found.values()):
        has = f"{', '.join(strangers)}, which is no host of {lab.name}" if strangers else "no host's files"
        raise ConfigurationError(f"{folder} has {has}; expected: {such} and the like.", next_command=f"mkdir -p {such}")
    return found


def _lab_of(path: Path, declared: list[_Host]) -> Lab:
    names: set[str] = set()
    hosts: list[LabHost] = []
    for host in declared:
        match = _ENGINE.fullmatch(host.engine)
        if match is None:
            continue
        if match["host"] != host.name or not re.fullmatch(_HOST_NAME, host.name) or host.name in (SWITCH, BUILDER):
            raise _wrong(
                path, f"host {host.name!r} has engine {host.engine}, which is not that of a lab host of its name"
            )
        hosts.append(LabHost(host.name, _address(path, host)))
        names.add(match["lab"])
    if not hosts:
        raise _wrong(path, f"describes no lab: no host has an engine such as {Lab().folders('host1').engine}")
    if len(names) > 1:
        raise _wrong(path, f"mixes hosts of several labs: {', '.join(sorted(names))}")
    lab = Lab(named_lab(names.pop()).name, tuple(hosts))
    _check_addresses(path, lab)
    return lab


def _address(path: Path, host: _Host) -> IPv4Address:
    try:
        return IPv4Address(host.address)
    except AddressValueError as error:
        raise _wrong(path, f"host {host.name!r}: {host.address!r} is not an IPv4 address") from error


def _check_addresses(path: Path, lab: Lab) -> None:
    taken = {lab.machine_address: "the machine's own address in the lab", lab.network.network_address: "the subnet's"}
    taken[lab.network.broadcast_address] = "the subnet's broadcast address"
    names: set[str] = set()
    for host in lab.hosts:
        if not host.address.is_private or host.address.is_loopback:
            raise _wrong(path, f"host {host.name!r}: {host.address} is not a private address")
        if host.address not in lab.network:
            raise _wrong(path, f"host {host.name!r}: {host.address} is outside the first host's subnet {lab.network}")
        if host.address in taken:
            raise _wrong(path, f"host {host.name!r}: {host.address} is {taken[host.address]}")
        if host.name in names:
            raise _wrong(path, f"host {host.name!r} is there twice")
        taken[host.address] = f"host {host.name!r}'s"
        names.add(host.name)


def _wrong(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path} {why}.", next_command="invoke lab.up --hosts lab.toml")
