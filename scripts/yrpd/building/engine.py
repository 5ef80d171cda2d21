"""The engine that builds images, and its streams read so that an error in them is an error here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException

from yrpd.errors import EnvironmentFailure, ImageError

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
LAB_SOCKET = "unix:///run/yrpd-lab/builder/docker.sock"
# A layer of some gigabytes is written without a word on the stream for minutes.
TIMEOUT_SECONDS = 1800


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def candidates() -> list[str]:
    """Return the engine addresses to try: ``$DOCKER_HOST`` alone when it is set, else the default, else the lab's."""
    chosen = os.environ.get("DOCKER_HOST")
    return [chosen] if chosen else [DEFAULT_SOCKET, LAB_SOCKET]


def connect() -> docker.DockerClient:
    """Return a client of the first engine that answers.

    Raises:
        EnvironmentFailure: None does.
    """
    reasons = []
    for address in candidates():
        if address.startswith("unix://") and not Path(address.removeprefix("unix://")).exists():
            reasons.append(f"{address} does not exist")
            continue
        try:
            client = docker.DockerClient(base_url=address, timeout=TIMEOUT_SECONDS, version="auto")
            client.ping()
        except (DockerException, requests.RequestException) as error:
            reasons.append(f"{address}: {error}")
            continue
        return client
    raise EnvironmentFailure(f"No Docker engine answers ({'; '.join(reasons)}).", next_command="invoke lab.builder")


@dataclass
class StreamResult:
    """What a stream of engine events ended with.

    Attributes:
        image_id: The built image, or the digest of the pushed one; empty when the stream named none.
        lines: All text, in order.
    """

    image_id: str = ""
    lines: list[str] = field(default_factory=list)


def _text_of(event: dict[str, Any]) -> str:
    if "stream" in event:
        return str(event["stream"])
    status = str(event.get("status", ""))
    # Progress bars of pull and push come as one event a tick; only the other ones are worth a line.
    return "" if event.get("progressDetail") else status


def read_stream(
    events: Iterable[dict[str, Any]], line: Callable[[str], None], *, what: str, log: str = ""
) -> StreamResult:
    """Read the events of a build, pull, push, load or import to the end.

    The engine answers 200 before it starts, so failures are events of the stream; docker-py raises for none of them.

    Args:
        events: Decoded events.
        line: Called with each line of text.
        what: What is being done, for the message: ``building yrpd:1``.
        log: Where the whole output is kept, named in the message.

    Returns:
        The last ``aux`` id or digest, and the lines.

    Raises:
        ImageError: The stream carries an error, or breaks off.
    """
    result = StreamResult()
    pending = ""
    try:
        for event in events:
            if "error" in event or "errorDetail" in event:
                detail = event.get("errorDetail") or {}
                message = str(detail.get("message") or event.get("error"))
                raise _failed(what, message.strip(), result.lines, log)
            auxiliary = event.get("aux") or {}
            result.image_id = str(auxiliary.get("ID") or auxiliary.get("Digest") or result.image_id)
            text = _text_of(event)
            if "stream" not in event:
                text = f"{text}\n" if text else ""
            *complete, pending = (pending + text).split("\n")
            for one in complete:
                _keep(_COLOUR.sub("", one).rstrip(), result.lines, line)
    except APIError as error:
        raise _failed(what, f"the engine refused: {error.explanation}", result.lines, log) from error
    except (requests.RequestException, DockerException) as error:
        raise _failed(what, f"the engine's answer broke off: {error}", result.lines, log) from error
    _keep(_COLOUR.sub("", pending).rstrip(), result.lines, line)
    return result


def _keep(text: str, lines: list[str], line: Callable[[str], None]) -> None:
    if text.strip():
        lines.append(text)
        line(text)


def _failed(what: str, message: str, lines: list[str], log: str) -> ImageError:
    where = f" The whole output is in {log}." if log else ""
    return ImageError(
        f"{what[:1].upper()}{what[1:]} failed: {message}.{where}",
        next_command=f"less {log}" if log else "docker info",
        detail="\n".join(lines[-20:]),
    )
