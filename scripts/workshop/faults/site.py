"""Where faults happen: a running deployment on a lab, and the commands that a user would type there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomlkit
from tomlkit import TOMLDocument

from workshop.lab.layout import Lab
from yrpd.deploying.planning.deployment import Deployment
from yrpd.deploying.spec import Role
from yrpd.deploying.status.status import status_document
from yrpd.docker.sdk import Container, DockerClient
from yrpd.errors import DeployError
from yrpd.reporting import Reporter


@dataclass(frozen=True)
class Site:
    """A running deployment on a lab.

    Attributes:
        deployment: What runs.
        lab: Its hosts.
        clients: Their engines.
        scratch: A folder for inventories that are tried.
        reporter: Says what is being done.
    """

    deployment: Deployment
    lab: Lab
    clients: Mapping[str, DockerClient]
    scratch: Path
    reporter: Reporter

    def container(self, role: Role, index: int = 0) -> tuple[str, Container]:
        """Return the host and the container of one of a role."""
        spec = [spec for spec in self.deployment.specs if spec.role == role][index]
        return spec.host, self.clients[spec.host].containers.get(spec.name)

    def host_of(self, role: Role) -> str:
        """Return the host of the first of a role."""
        return next(spec.host for spec in self.deployment.specs if spec.role == role)

    def health(self, host: str, name: str) -> str:
        """Return what ``deploy.status`` says of a container."""
        document = status_document(self.deployment, self.clients, {}, datetime.now(tz=UTC))
        return next(str(e["health"]) for e in document["containers"] if (e["host"], e["name"]) == (host, name))

    def deploy(self, hosts_file: Path | None = None) -> subprocess.Popen[str]:
        """Start ``deploy`` as a user would."""
        root = self.deployment.project.root
        line = [sys.executable, "-m", "invoke", "deploy"]
        line += ["--hosts", str(hosts_file or self.deployment.hosts_file), "--flavour", self.deployment.image.flavour]
        line += ["--pin", self.deployment.image.pin]
        return subprocess.Popen(
            line,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def deployed(self, hosts_file: Path | None = None) -> str:
        """Run ``deploy`` to its end and return what it said.

        Raises:
            DeployError: It failed.
        """
        running = self.deploy(hosts_file)
        said, _ = running.communicate()
        if running.returncode != 0:
            raise DeployError(f"`deploy` ended with {running.returncode} after a fault.", detail=said)
        return said

    def changed_inventory(self, name: str, change: Callable[[TOMLDocument], None]) -> Path:
        """Write the deployment's inventory with a change, under a name of its own."""
        document = tomlkit.parse(self.deployment.hosts_file.read_text(encoding="utf-8"))
        # Relative to the inventory, which is elsewhere now.
        document["model"]["path"] = self.deployment.site.model_folder
        change(document)
        path = self.scratch / f"{self.deployment.hosts_file.stem}-{name}.toml"
        path.write_text(tomlkit.dumps(document), encoding="utf-8")
        return path
