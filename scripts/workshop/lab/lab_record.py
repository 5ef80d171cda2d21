"""The lab's record: who brought it up, when, and which folders of the machine were not there before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from pydantic import BaseModel, ValidationError

from workshop.lab.layout import Lab, LabHost
from yrpd.project import write_json

# What `ip netns`, dockerd and containerd make outside the folders that they are given.
MACHINE_FOLDERS = (
    Path("/run/netns"),
    Path("/run/docker"),
    Path("/run/containerd"),
    Path("/opt/containerd"),
    Path("/etc/docker"),
)


@dataclass(frozen=True)
class Record:
    """Who brought a lab up.

    Attributes:
        owner: The checkout.
        made_at: When, in UTC.
        boot: The machine's boot id; a record from before the last boot tells of a lab that is no more.
        hosts: The lab's hosts; empty when only the builder is there.
        absent: Machine folders that did not exist before the lab did.
    """

    owner: str
    made_at: str
    boot: str
    hosts: tuple[LabHost, ...]
    absent: tuple[Path, ...]


class _HostDocument(BaseModel):
    name: str
    address: IPv4Address


class _Document(BaseModel):
    owner: str
    made_at: str
    boot: str
    hosts: list[_HostDocument]
    absent: list[Path]


def boot_id() -> str:
    """Return what identifies the time since the machine's last start."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def new_record(lab: Lab, owner: Path) -> Record:
    """Return the record of a lab that is about to be made; folders that it made before the last boot stay its own."""
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    made_before = made_folders(lab)
    absent = tuple(folder for folder in MACHINE_FOLDERS if folder in made_before or not folder.exists())
    return Record(str(owner), made_at, boot_id(), lab.hosts, absent)


def made_folders(lab: Lab) -> tuple[Path, ...]:
    """Return the machine folders that the lab made, whenever: where /run is on disk, they outlive a restart."""
    document = _read(lab)
    return () if document is None else tuple(document.absent)


def read_record(lab: Lab) -> Record | None:
    """Return the lab's record; ``None`` when there is none that can be read, or it is from before the last boot."""
    document = _read(lab)
    if document is None or document.boot != boot_id():
        return None
    hosts = tuple(LabHost(host.name, host.address) for host in document.hosts)
    return Record(document.owner, document.made_at, document.boot, hosts, tuple(document.absent))


def write_record(lab: Lab, record: Record) -> None:
    """Write the record; the first thing that a lab makes."""
    document = {
        "owner": record.owner,
        "made_at": record.made_at,
        "boot": record.boot,
        "hosts": [{"name": host.name, "address": str(host.address)} for host in record.hosts],
        "absent": [str(folder) for folder in record.absent],
    }
    write_json(lab.record_file, document)


def _read(lab: Lab) -> _Document | None:
    try:
        return _Document.model_validate_json(lab.record_file.read_bytes())
    except (OSError, ValidationError):
        return None
