"""Asks containers whether they are ready, until they are, they have died, or the deadline has passed."""

from __future__ import annotations

import socket
import time
from threading import Event

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from yrpd.deploying.hosts.containers import log_text
from yrpd.deploying.hosts.direct import DirectSession
from yrpd.deploying.spec import ContainerSpec, FileProbe, HttpProbe, Probe
from yrpd.docker.sdk import APIError, Container, NotFound
from yrpd.errors import DeployError

INTERVAL_S = 0.5
REQUEST_TIMEOUT_S = 5.0
LOG_TAIL = 30
READY_STATUS = 200


class NotReadyError(Exception):
    """It has not answered yet; the text says what it answered."""


def check_once(probe: Probe, container: Container) -> None:
    """Ask once.

    Raises:
        NotReadyError: It is not ready.
    """
    if isinstance(probe, HttpProbe):
        _check_http(probe)
    else:
        _check_file(probe, container)


def wait_until_ready(spec: ContainerSpec, container: Container, abandoned: Event | None = None) -> float:
    """Ask until the container is ready.

    Args:
        spec: What was started.
        container: The container.
        abandoned: Set by others when waiting makes no sense any more.

    Returns:
        Seconds it took.

    Raises:
        DeployError: It died (at once) or its deadline passed; the log's tail is attached.
    """
    began = time.monotonic()
    try:
        before = restarts(container)
        for attempt in Retrying(
            stop=stop_after_delay(spec.probe.deadline_s),
            wait=wait_fixed(INTERVAL_S),
            retry=retry_if_exception_type(NotReadyError),
            reraise=True,
        ):
            with attempt:
                if abandoned is not None and abandoned.is_set():
                    raise DeployError(f"{spec.name} on {spec.host} is no longer waited for: another container failed.")
                fail_if_ended(spec, container, before)
                check_once(spec.probe, container)
    except NotReadyError as error:
        raise DeployError(
            f"{spec.name} on {spec.host} was not ready within {spec.probe.deadline_s} s: {error}.",
            detail=log_text(container, LOG_TAIL),
        ) from error
    return time.monotonic() - began


def restarts(container: Container) -> int:
    """Return how often the engine had to start a container again since it was created."""
    return int(container.attrs.get("RestartCount") or 0)


def fail_if_ended(spec: ContainerSpec, container: Container, before: int) -> None:
    """Raise when a container no longer runs, or the engine had to start it again.

    Args:
        spec: What it is.
        container: The container.
        before: How often it had been started again when the waiting began. What crashed last week and serves is fine.

    Raises:
        DeployError: It ended; the log's tail is attached.
    """
    try:
        container.reload()
    except NotFound as error:
        raise DeployError(f"{spec.name} on {spec.host} was removed by somebody else while it started.") from error
    state = container.attrs["State"]
    if state["Status"] in ("running", "restarting") and restarts(container) <= before:
        return
    killed = " (out of memory)" if state.get("OOMKilled") else ""
    raise DeployError(
        f"{spec.name} on {spec.host} ended with code {state.get('ExitCode')}{killed} before it was ready.",
        detail=log_text(container, LOG_TAIL),
    )


def _check_http(probe: HttpProbe) -> None:
    try:
        with DirectSession() as session:
            answer = session.get(probe.url, timeout=REQUEST_TIMEOUT_S)
    except requests.RequestException as error:
        raise NotReadyError(f"{probe.url} does not answer ({type(error).__name__})") from error
    if answer.status_code != READY_STATUS:
        raise NotReadyError(f"{probe.url} answers {answer.status_code}")
    text = answer.text.replace('": ', '":').replace(", ", ",")
    missing = [part for part in probe.contains if part not in text]
    if missing:
        raise NotReadyError(f"{probe.url} answers without {missing[0]}: {text[:200]}")


def _check_file(probe: FileProbe, container: Container) -> None:
    try:
        code, _ = container.exec_run(["test", "-e", probe.path])
    except APIError as error:
        raise NotReadyError(f"its container cannot be asked ({error.explanation})") from error
    if code != 0:
        raise NotReadyError(f"{probe.path} does not exist yet")
    try:
        socket.create_connection((probe.address, probe.port), timeout=REQUEST_TIMEOUT_S).close()
    except OSError as error:
        raise NotReadyError(f"{probe.address}:{probe.port} does not answer ({error})") from error
