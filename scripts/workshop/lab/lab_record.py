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
        hosts: The lab's hosts; empty when only the builder is there.
        absent: Machine folders that did not exist before the lab did.
    """

    owner: str
    made_at: str
    hosts: tuple[LabHost, ...]
    absent: tuple[Path, ...]


class _HostDocument(BaseModel):
    name: str
    address: IPv4Address


class _Document(BaseModel):
    owner: str
    made_at: str
    hosts: list[_HostDocument]
    absent: list[Path]


def new_record(lab: Lab, owner: Path) -> Record:
    """Return the record of a lab that is about to be made."""
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(str(owner), made_at, lab.hosts, tuple(folder for folder in MACHINE_FOLDERS if not folder.exists()))


def read_record(lab: Lab) -> Record | None:
    """Return the lab's record, which outlives a restart where /run is on disk; ``None`` when none can be read."""
    try:
        document = _Document.model_validate_json(lab.record_file.read_bytes())
    except (OSError, ValidationError):
        return None
    hosts = tuple(LabHost(host.name, host.address) for host in document.hosts)
    return Record(document.owner, document.made_at, hosts, tuple(document.absent))


def write_record(lab: Lab, record: Record) -> None:
    """Write the record; the first thing that a lab makes."""
    document = {
        "owner": record.owner,
        "made_at": record.made_at,
        "hosts": [{"name": host.name, "address": str(host.address)} for host in record.hosts],
        "absent": [str(folder) for folder in record.absent],
    }
    write_json(lab.record_file, document)
