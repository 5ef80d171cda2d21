"""The machine before and after, and containers without any image worth the name."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import docker
from docker.models.containers import Container

from workshop.lab.lab_record import MACHINE_FOLDERS
from workshop.lab.machine import environment
from workshop.lab.observe import read_mounts

LAB = "yrpd-test"


def picture() -> dict[str, object]:
    """Return what a lab could leave on a machine."""

    def said(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True, env=environment()).stdout

    links = [(link["ifname"], link["operstate"]) for link in json.loads(said("ip", "-j", "link"))]
    addresses = [(a["ifname"], [i["local"] for i in a["addr_info"]]) for a in json.loads(said("ip", "-j", "addr"))]
    engines = [p.name for p in Path("/proc").iterdir() if p.name.isdigit() and _is_engine(p)]
    return {
        "links": links,
        "addresses": addresses,
        "routes": said("ip", "route", "show", "table", "all"),
        "namespaces": said("ip", "netns", "list"),
        # The kernel's own tables: empty lists when no rule exists, with or without the iptables program.
        "rules": [_text(Path(f"/proc/net/{name}_tables_names")) for name in ("ip", "ip6", "arp")],
        "forwarding": _text(Path("/proc/sys/net/ipv4/ip_forward"))
        + _text(Path("/proc/sys/net/ipv4/conf/all/forwarding")),
        "mounts": sorted(m.point for m in read_mounts(_text(Path("/proc/self/mountinfo"))) if _is_ours(m.point)),
        "engines": sorted(engines),
        "folders": [
            path for path in (*MACHINE_FOLDERS, *Path("/run").glob(f"{LAB}*"), Path("/var/lib", LAB)) if path.exists()
        ],
        "cgroups": sorted(path for path in Path("/sys/fs/cgroup").glob("*/*") if path.name in (LAB, "docker")),
    }


def _is_ours(point: Path) -> bool:
    return LAB in str(point) or point in MACHINE_FOLDERS


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _is_engine(folder: Path) -> bool:
    try:
        argv = (folder / "cmdline").read_bytes()
    except OSError:
        return False
    return f"/{LAB}/".encode() in argv and any(name in argv for name in (b"dockerd", b"containerd"))


def client(part: str) -> docker.DockerClient:
    """Return a client of one of the lab's engines."""
    return docker.DockerClient(base_url=f"unix:///run/{LAB}/{part}/docker.sock", timeout=30)


def import_image(engine: docker.DockerClient) -> None:
    """Give an engine an image of a few links: the programs themselves come from the machine's /usr."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("bin", "lib", "lib64", "sbin"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
    engine.api.import_image_from_data(stream.getvalue(), repository="tiny", tag="1")


def run_python(engine: docker.DockerClient, program: str, name: str | None = None) -> Container:
    """Run a Python program in a container that shares its host's network; it ends at once when it is stopped."""
    return engine.containers.run(
        "tiny:1",
        ["/usr/bin/python3", "-c", program],
        name=name,
        network_mode="host",
        stop_signal="SIGKILL",
        volumes={"/usr": {"bind": "/usr", "mode": "ro"}},
        detach=True,
    )
