"""The configuration of one engine: a dockerd with a containerd of its own, told to leave the machine alone.

It never uses the machine's containerd (``dockerd`` would, if it ran one, and two engines on one containerd delete each
other's containers), nor ``/etc/docker/daemon.json``, whose settings may contradict these.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workshop.lab.layout import Folders, Lab


@dataclass(frozen=True)
class EngineFiles:
    """The files that one engine is started with.

    Attributes:
        containerd: containerd's configuration.
        dockerd: dockerd's configuration.
        containerd_log: What containerd says.
        dockerd_log: What dockerd says.
    """

    containerd: Path
    dockerd: Path
    containerd_log: Path
    dockerd_log: Path


def engine_files(folders: Folders) -> EngineFiles:
    """Return where an engine's configuration and logs are."""
    run = folders.run
    return EngineFiles(run / "containerd.toml", run / "daemon.json", run / "containerd.log", run / "dockerd.log")


def containerd_configuration(folders: Folders) -> str:
    """Return containerd's configuration, TOML; the left-out plugins would write to ``/opt`` and ``/etc/cni``."""
    return (
        "version = 2\n"
        f'root = "{folders.data / "containerd"}"\n'
        f'state = "{folders.containerd_state}"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        "[grpc]\n"
        f'address = "{folders.containerd_socket}"\n'
    )


def dockerd_configuration(lab: Lab, part: str, *, major: int) -> str:
    """Return dockerd's configuration, JSON.

    Args:
        lab: The lab.
        part: The host's name, or the builder.
        major: dockerd's major version; before 23 it wrote a key to ``/etc/docker`` unless told otherwise.
    """
    folders = lab.folders(part)
    options: dict[str, Any] = {
        "hosts": [folders.engine],
        "containerd": str(folders.containerd_socket),
        "data-root": str(folders.data / "docker"),
        "exec-root": str(folders.run / "docker"),
        "pidfile": str(folders.pid_file),
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "ip-masq": False,
        "userland-proxy": False,
        # By this group all containers of the lab are found, whatever became of their engine.
        "cgroup-parent": f"/{lab.cgroup}/{part}",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
    }
    if major < 23:
        options["deprecated-key-path"] = str(folders.data / "key.json")
    return json.dumps(options, indent=2) + "\n"


def major_version(text: str) -> int:
    """Return the major version in ``dockerd --version``'s answer; 0 when there is none."""
    match = re.search(r"version (\d+)\.", text)
    return int(match[1]) if match else 0
