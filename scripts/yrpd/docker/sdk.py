"""What the project uses of the Docker SDK: clients, containers, mounts, and what it raises. Nothing else imports it."""

from __future__ import annotations

from docker import APIClient, DockerClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.models.images import Image
from docker.tls import TLSConfig
from docker.types import LogConfig, Mount
from docker.utils import parse_repository_tag

__all__ = [
    "APIClient",
    "APIError",
    "Container",
    "DockerClient",
    "DockerException",
    "Image",
    "ImageNotFound",
    "LogConfig",
    "Mount",
    "NotFound",
    "TLSConfig",
    "parse_repository_tag",
]
