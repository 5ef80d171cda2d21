"""Two hosts with two emulated NPUs each, and the inventory that deploys on them.

Each host sees device nodes, driver and tools of its own over the machine's files (``invoke lab.up --overlay``). The
emulated NPU lies in the driver's folder: its device library, CANN's libraries, and the torch_npu that stands before the
base's real one as long as the driver is mounted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import tomlkit

from tests.e2e.ascend.base import LIBRARY, SITE
from tests.e2e.running import ROOT
from tests.emulated_npu import cann, device
from tests.integration.sshd import sshd
from workshop.ascend_host import LAST_CONSOLE, MANAGERS, Npu, write_host
from workshop.datasystem import free_ports
from workshop.models import model_python
from yrpd.deploying.inventory import Host
from yrpd.project import Project

LAB = "yrpd-npu"
GROUP = 1007
HOSTS = ("host1", "host2")
NPUS = 2  # one of an instance, one of plain vLLM
_EMULATED = Path(cann.__file__).parents[1]


def driver_libraries(folder: Path, pin: str) -> Path:
    """Make what lies in the driver's folder of libraries.

    Args:
        folder: Where; made here.
        pin: The pin whose vLLM it is compiled for.
    """
    project = Project.here()
    shutil.copytree(cann.build(project.cache), folder)
    shutil.copytree(_EMULATED / "site", folder / SITE, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(device.build(model_python(project, pin), project.cache), folder / LIBRARY)
    return folder


def write_hosts(overlay: Path, libraries: Path) -> dict[str, tuple[str, ...]]:
    """Write what lies over each host's files; returns each host's ``driver_mounts``."""
    consoles = NPUS + len(MANAGERS)
    return {
        name: write_host(
            overlay / name,
            [Npu(address=f"10.1.0.{NPUS * at + number + 1}") for number in range(NPUS)],
            libraries,
            group=GROUP,
            last_console=LAST_CONSOLE - at * consoles,
        )
        for at, name in enumerate(HOSTS)
    }


def lab_file(path: Path) -> Path:
    """Write the file that ``lab.up`` makes the hosts from; returns it."""
    hosts = [{"name": name, "engine": _engine(name), "address": _address(at)} for at, name in enumerate(HOSTS)]
    path.write_text(tomlkit.dumps({"hosts": hosts}), encoding="utf-8")
    return path


def from_here() -> list[Host]:
    """Return the hosts by their engines' own sockets."""
    return [Host(name=name, engine=_engine(name), address=_address(at)) for at, name in enumerate(HOSTS)]


@contextmanager
def reached_by_ssh(folder: Path) -> Iterator[dict[str, str]]:
    """Let the hosts' engines be reached by ssh, as those of two machines are; from here nothing of a host is seen.

    Args:
        folder: ``HOME`` of who deploys.

    Yields:
        Each host's engine.
    """
    with ExitStack() as stack:
        ports = free_ports(len(HOSTS))
        yield {
            name: stack.enter_context(sshd(folder / name, folder, _engine(name), port)).engine
            for name, port in zip(HOSTS, ports, strict=True)
        }


def _engine(name: str) -> str:
    return f"unix:///run/{LAB}/{name}/docker.sock"


def _address(at: int) -> str:
    return f"10.78.0.{at + 1}"


def write_inventory(path: Path, engines: dict[str, str], mounts: dict[str, tuple[str, ...]]) -> Path:
    """Write the inventory: ``lab.toml``'s, on hosts with NPUs."""
    document: dict[str, Any] = tomlkit.parse((ROOT / "lab.toml").read_text(encoding="utf-8")).unwrap()
    document["name"] = LAB
    document["hosts"] = [
        {
            "name": name,
            "engine": engines[name],
            "address": _address(at),
            "devices": list(range(NPUS)),
            "device_nodes": list(MANAGERS),
            "device_groups": [GROUP],
            "driver_mounts": list(mounts[name]),
        }
        for at, name in enumerate(HOSTS)
    ]
    document["model"]["path"] = str(ROOT / document["model"]["path"])
    document["model"]["options"] = {"enforce-eager": True, "max-num-seqs": 8, "gpu-memory-utilization": 0.2}
    for role in ("prefill", "decode"):
        for instance in document[role]:
            del instance["cores"]
    del document["containers"]["kvcache_gib"]
    path.write_text(tomlkit.dumps(document), encoding="utf-8")
    return path
