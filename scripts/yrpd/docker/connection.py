"""The connection to a Docker engine, and its streams read so that an error in them is an error here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import requests
import urllib3

from yrpd.docker.sdk import APIError, DockerClient, DockerException
from yrpd.errors import ConfigurationError, EnvironmentFailure, ImageError

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
LAB_SOCKET = "unix:///run/yrpd-lab/builder/docker.sock"
# A layer of some gigabytes is written without a word on the stream for minutes.
TIMEOUT_SECONDS = 1800
TIMEOUT_VARIABLE = "YRPD_ENGINE_TIMEOUT"
CONTAINERD_STORE = "io.containerd.snapshotter.v1"

Line = Callable[[str], None]

_COUNTDOWN = "Retrying in "
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def candidates() -> list[str]:
    """Return the engine addresses to try: ``$DOCKER_HOST`` alone when it is set, else the default, else the lab's."""
    chosen = os.environ.get("DOCKER_HOST")
    return [chosen] if chosen else [DEFAULT_SOCKET, LAB_SOCKET]


def timeout_seconds() -> float:
    """Return how long an engine may say nothing: ``$YRPD_ENGINE_TIMEOUT``, else half an hour.

    Raises:
        ConfigurationError: The variable is not a positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text or TIMEOUT_SECONDS)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:  # also when it is not a number
        message = f"{TIMEOUT_VARIABLE} is {text!r}; it has to be a number of seconds."
        raise ConfigurationError(message, next_command=f"unset {TIMEOUT_VARIABLE}")
    return seconds


def connect() -> DockerClient:
    """Return a client of the first engine that answers.

    Raises:
        ConfigurationError: ``$YRPD_ENGINE_TIMEOUT`` is no number.
        EnvironmentFailure: None does.
    """
    timeout = timeout_seconds()
    reasons = []
    for address in candidates():
        if address.startswith("unix://") and not Path(address.removeprefix("unix://")).exists():
            reasons.append(f"{address} does not exist")
            continue
        try:
            client = DockerClient(base_url=address, timeout=cast(Any, timeout), version="auto")
            client.ping()
        except (DockerException, requests.RequestException) as error:
            reasons.append(f"{address}: {error}")
            continue
        return client
    raise EnvironmentFailure(f"No Docker engine answers ({'; '.join(reasons)}).", next_command="invoke lab.builder")


def by_manifest(client: DockerClient) -> bool:
    """Return whether an engine names images by manifest (containerd image store) and not by configuration."""
    status = client.info().get("DriverStatus") or []
    return any(CONTAINERD_STORE in str(value) for _, value in status)


def _text_of(event: dict[str, Any]) -> str:
    if "stream" in event:
        return str(event["stream"])
    status = str(event.get("status", ""))
    # A pull's progress comes as one event a tick; only the other ones are worth a line.
    return "" if event.get("progressDetail") else status


def read_stream(events: Iterable[dict[str, Any]], line: Line, *, what: str, log: str = "") -> list[str]:
    """Read the events of a build, pull, push or load to the end.

    The engine answers 200 before it starts, so failures are events of the stream; docker-py raises for none of them.

    Args:
        events: Decoded events.
        line: Called with each line of text.
        what: What is being done, for the message: ``building yrpd:1``.
        log: Where the whole output is kept, named in the message.

    Returns:
        All text, in order.

    Raises:
        ImageError: The stream carries an error, or breaks off.
    """
    lines: list[str] = []
    pending = ""
    try:
        for event in events:
            if "error" in event or "errorDetail" in event:
                detail = event.get("errorDetail") or {}
                message = str(detail.get("message") or event.get("error"))
                raise _failed(what, message.strip(), lines, log)
            text = _text_of(event)
            if "stream" not in event:
                text = f"{text}\n" if text else ""
            *complete, pending = (pending + text).split("\n")
            for one in complete:
                _keep(_COLOUR.sub("", one).rstrip(), lines, line)
    except APIError as error:
        raise _failed(what, f"the engine refused: {error.explanation}", lines, log) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, DockerException) as error:
        raise _failed(what, broken(error), lines, log) from error
    _keep(_COLOUR.sub("", pending).rstrip(), lines, line)
    return lines


def broken(error: Exception) -> str:
    """Return how a connection to an engine ended, as a half sentence."""
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return f"the engine said nothing for {timeout_seconds():.0f} s ({TIMEOUT_VARIABLE} sets another limit)"
    return f"the engine's answer broke off: {error}"


def _keep(text: str, lines: list[str], line: Line) -> None:
    # An engine counts down, each second and layer; one line tells as much.
    again = bool(lines) and text.startswith(_COUNTDOWN) and lines[-1].startswith(_COUNTDOWN)
    if text.strip() and not again:
        lines.append(text)
        line(text)


def _failed(what: str, message: str, lines: list[str], log: str) -> ImageError:
    where = f" The whole output is in {log}." if log else ""
    message = f"{what[:1].upper()}{what[1:]} failed: {message}.{where}"
    return ImageError(message, next_command=f"less {log}" if log else "docker info", detail="\n".join(lines[-20:]))
