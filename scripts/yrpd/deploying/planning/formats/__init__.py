"""A plan in the words of other tools: docker lines, Kubernetes manifests. Pure."""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Sequence

from yrpd.deploying.hosts.containers import packed
from yrpd.deploying.planning.formats import kubernetes, monitoring
from yrpd.deploying.spec import ContainerSpec, docker_line
from yrpd.errors import ConfigurationError

FORMATS = ("table", "run", "json", "kubernetes", "monitoring")


def check_format(name: str) -> None:
    """Refuse what is no format.

    Raises:
        ConfigurationError: There is none of this name.
    """
    if name not in FORMATS:
        message = f"There is no plan format {name!r}; there are: {', '.join(FORMATS)}."
        raise ConfigurationError(message, next_command="invoke deploy.plan --format table")


def files(name: str, deployment: str, specs: Sequence[ContainerSpec]) -> dict[str, str]:
    """Return the files of a plan in a format: file name to text.

    Args:
        name: ``run``, ``kubernetes`` or ``monitoring``.
        deployment: The deployment's name.
        specs: Every container, in start order.
    """
    if name == "run":
        lines = [line for spec in specs for line in (docker_line(spec), *_files_first(spec))]
        return {f"{deployment}-run.sh": "".join(f"{line}\n" for line in lines)}
    if name == "monitoring":
        return monitoring.files(deployment, specs)
    return {f"{deployment}-kubernetes.yaml": kubernetes.text(deployment, specs)}


def _files_first(spec: ContainerSpec) -> list[str]:
    """Return the lines that give a container that was created its own files, and start it."""
    if not spec.live:
        return []
    docker = f"docker -H {shlex.quote(spec.engine)}"
    archive = b64encode(packed(spec.live)).decode()
    return [f"echo {archive} | base64 -d | {docker} cp - {spec.name}:/", f"{docker} start {spec.name}"]
