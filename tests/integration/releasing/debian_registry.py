"""Debian's registry on loopback, and a push to one that fails without a trace."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from docker.errors import ImageNotFound
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from yrpd.errors import ImageError
from yrpd.releasing import registry

from .conftest import Released, quiet

PORT_DEADLINE_S = 30
REPOSITORY = "team/vllm"


@dataclass
class Registry:
    """A running registry.

    Attributes:
        port: Where it listens.
        process: What runs.
        storage: Its files.
        log: What it says.
    """

    port: int
    process: subprocess.Popen[bytes]
    storage: Path
    log: Path

    @property
    def repository(self) -> str:
        """A repository in it."""
        return f"127.0.0.1:{self.port}/{REPOSITORY}"

    def tags(self) -> list[str]:
        """The tags that it has."""
        answer = requests.get(f"http://127.0.0.1:{self.port}/v2/{REPOSITORY}/tags/list", timeout=10)
        return list(answer.json().get("tags") or ())

    def end(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


def start(folder: Path, storage: Path, port: int) -> Registry:
    """Start a registry and wait until it answers."""
    configuration, log = folder / "registry.yml", folder / "registry.log"
    configuration.write_text(
        f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with log.open("ab") as stream:
        process = subprocess.Popen(["docker-registry", "serve", str(configuration)], stdout=stream, stderr=stream)
    patience = Retrying(
        stop=stop_after_delay(PORT_DEADLINE_S),
        wait=wait_fixed(0.1),
        retry=retry_if_exception_type(requests.ConnectionError),
    )
    patience(requests.get, f"http://127.0.0.1:{port}/v2/", timeout=5)
    return Registry(port, process, storage, log)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def is_tagged(released: Released, repository: str, tag: str) -> bool:
    """Whether the engine has this name."""
    try:
        released.client.images.get(f"{repository}:{tag}")
    except ImageNotFound:
        return False
    return True


def push_fails(saved: Released, tmp_path: Path, repository: str) -> ImageError:
    """Push, and show that neither the folder nor the engine's names know of it."""
    other = saved.copy(tmp_path / "copy")
    before = other.folder.read("manifest.json"), other.folder.read("SHA256SUMS")
    with pytest.raises(ImageError) as caught:
        registry.push(saved.client, other.folder, repository, quiet())
    assert caught.value.exit_code == 6
    assert (other.folder.read("manifest.json"), other.folder.read("SHA256SUMS")) == before
    assert not is_tagged(saved, repository, saved.manifest.image.rpartition(":")[2])
    return caught.value
