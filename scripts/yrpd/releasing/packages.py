"""What is inside an image, by its own package managers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import requests

from yrpd.docker.sdk import DockerClient, DockerException, LogConfig
from yrpd.errors import ImageError
from yrpd.releasing import list_packages


@dataclass(frozen=True, order=True)
class PythonPackage:
    """A Python distribution.

    Attributes:
        name: As its metadata has it.
        version: Its version.
        licence: As its metadata has it; empty when it says nothing.
        folder: Where it is in the image: environments may have different versions of one name.
    """

    name: str
    version: str
    licence: str
    folder: str


@dataclass(frozen=True, order=True)
class SystemPackage:
    """A package of the image's distribution."""

    name: str
    version: str
    arch: str
    licence: str


@dataclass(frozen=True)
class Inventory:
    """Everything that is installed, sorted.

    Attributes:
        system: The distribution's id, such as ``debian``.
        system_version: Its version.
        python: Python distributions.
        packages: System packages.
    """

    system: str
    system_version: str
    python: tuple[PythonPackage, ...]
    packages: tuple[SystemPackage, ...]


def parse_inventory(text: str) -> Inventory:
    """Read what `list_packages` printed; the order is ours, whatever the image's folders list first."""
    document = json.loads(text)
    return Inventory(
        system=document["system"],
        system_version=document["system_version"],
        python=tuple(sorted({PythonPackage(**one) for one in document["python"]})),
        packages=tuple(sorted({SystemPackage(**one) for one in document["packages"]})),
    )


def take_inventory(client: DockerClient, image_id: str) -> Inventory:
    """Run the image once, without a network and without writing to it, and list what is installed.

    Raises:
        ImageError: It has no Python, or the list could not be made.
    """
    script = Path(list_packages.__file__).read_text(encoding="utf-8")
    try:
        container = client.containers.create(
            image_id,
            entrypoint=["python3", "-c", script],
            command=[],
            network_mode="none",
            read_only=True,
            use_config_proxy=False,
            cap_drop=["ALL"],
            environment={"PYTHONDONTWRITEBYTECODE": "1"},
            log_config=LogConfig(type=LogConfig.types.JSON),
        )
        try:
            container.start()
            status = container.wait()["StatusCode"]
            errors = container.logs(stdout=False, stderr=True).decode("utf-8", "replace")
            printed = container.logs(stdout=True, stderr=False).decode("utf-8")
        finally:
            container.remove(force=True, v=True)
        if status:
            raise ValueError(f"python3 ended with {status}: {errors.strip()[-500:]}")
        return parse_inventory(printed)
    except (DockerException, requests.RequestException, ValueError, KeyError, TypeError) as error:
        message = f"What is in {image_id} could not be listed: {error}."
        raise ImageError(message, next_command=f"docker run --rm -it {image_id} python3") from error
