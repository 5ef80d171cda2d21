"""Kinds of fields that several tables of an inventory share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
FIRST_UNPRIVILEGED_PORT = 1024  # Linux' net.ipv4.ip_unprivileged_port_start, unless a host's administrator moved it


def _bindable(port: int) -> int:
    if port < FIRST_UNPRIVILEGED_PORT:
        raise ValueError(
            f"is below {FIRST_UNPRIVILEGED_PORT}, where listening takes the capability NET_BIND_SERVICE, which no "
            f"container is given; choose {FIRST_UNPRIVILEGED_PORT} or more, and let a load balancer or the host's "
            "firewall pass the lower one on"
        )
    return port


Port = Annotated[int, Field(ge=1, le=65535), AfterValidator(_bindable)]


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path")
    if ":" in path or "," in path or ".." in path.split("/"):
        raise ValueError("must not contain ':', ',' or '..'")
    return path


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class Table(BaseModel):
    """A table of the file: frozen, and every field that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
