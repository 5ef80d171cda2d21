"""A plan in the words of other tools: docker lines, Compose files, Kubernetes manifests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from yrpd.deploying.planning.formats import compose, kubernetes, monitoring
from yrpd.deploying.spec import ContainerSpec, docker_line
from yrpd.errors import ConfigurationError

Format = Literal["table", "run", "json", "compose", "kubernetes", "monitoring"]
FORMATS: tuple[str, ...] = get_args(Format)


def check_format(name: str) -> str:
    """Return the format.

    Raises:
        ConfigurationError: There is none of this name.
    """
    if name not in FORMATS:
        raise ConfigurationError(
            f"There is no plan format {name!r}; there are: {', '.join(FORMATS)}.",
            next_command="invoke deploy.plan --format table",
        )
    return name


def files(name: str, deployment: str, specs: Sequence[ContainerSpec]) -> dict[str, str]:
    """Return the files of a plan in a format: file name to text.

    Args:
        name: ``run``, ``compose``, ``kubernetes`` or ``monitoring``.
        deployment: The deployment's name.
        specs: Every container, in start order.
    """
    if name == "run":
        return {f"{deployment}-run.sh": "".join(f"{docker_line(spec)}\n" for spec in specs)}
    if name == "compose":
        hosts = dict.fromkeys(spec.host for spec in specs)
        return {
            f"compose-{host}.yaml": compose.text([spec for spec in specs if spec.host == host], first_wave(specs, host))
            for host in hosts
        }
    if name == "monitoring":
        return monitoring.files(deployment, specs)
    return {f"{deployment}-kubernetes.yaml": kubernetes.text(deployment, specs)}


def first_wave(specs: Sequence[ContainerSpec], host: str) -> tuple[str, ...]:
    """Return the containers of other hosts that those of a host need."""
    here = {spec.name for spec in specs if spec.host == host}
    needed = {name for spec in specs if spec.host == host for name in spec.started_after} - here
    return tuple(sorted(needed))
