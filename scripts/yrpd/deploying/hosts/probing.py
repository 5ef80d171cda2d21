"""Asks containers whether they are ready, until they are, they have died, or the deadline has passed."""

from __future__ import annotations

import socket
import time
from threading import Event

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from yrpd.deploying.hosts.containers import log_text
from yrpd.deploying.hosts.direct import DirectSession
from yrpd.deploying.hosts.engines import EngineLostError
from yrpd.deploying.spec import FileProbe, HttpProbe, Probe
from yrpd.docker.sdk import APIError, Container, NotFound
from yrpd.errors import DeployError

INTERVAL_S = 0.5
REQUEST_TIMEOUT_S = 5.0
LOST_FOR_S = 15.0  # one lost connection is no lost host
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


def wait_until_ready(title: str, probe: Probe, container: Container, abandoned: Event | None = None) -> float:
    """Ask until a container is ready.

    Args:
        title: What people read of it.
        probe: How it is asked.
        container: It, started.
        abandoned: Set by others when waiting makes no sense any more.

    Returns:
        Seconds it took.

    Raises:
        DeployError: It died (at once) or its deadline passed; the log's tail is attached.
        EngineLostError: Its engine did not answer for longer than :data:`LOST_FOR_S`.
    """
    began = answered = time.monotonic()
    # What crashed last week, was started again by its engine, and serves is fine.
    restarts = int(container.attrs.get("RestartCount") or 0)
    try:
        for attempt in Retrying(
            stop=stop_after_delay(probe.deadline_s),
            wait=wait_fixed(INTERVAL_S),
            retry=retry_if_exception_type(NotReadyError),
            reraise=True,
        ):
            with attempt:
                if abandoned is not None and abandoned.is_set():
                    raise DeployError(f"{title} is no longer waited for: another container failed.")
                try:
                    _demand_running(title, container, restarts)
                    answered = time.monotonic()
                    check_once(probe, container)
                except EngineLostError as error:
                    if time.monotonic() - answered > LOST_FOR_S:
                        raise
                    raise NotReadyError(str(error)) from error
    except NotReadyError as error:
        message = f"{title} was not ready within {probe.deadline_s} s: {error}."
        raise DeployError(message, detail=log_text(container, LOG_TAIL)) from error
    return time.monotonic() - began


def _demand_running(title: str, container: Container, restarts: int) -> None:
    try:
        container.reload()
    except NotFound as error:
        raise DeployError(f"{title} was removed by somebody else while it started.") from error
    state = container.attrs["State"]
    if state["Status"] in ("running", "restarting") and int(container.attrs.get("RestartCount") or 0) <= restarts:
        return
    killed = " (out of memory)" if state.get("OOMKilled") else ""
    message = f"{title} ended with code {state.get('ExitCode')}{killed} before it was ready."
    raise DeployError(message, detail=log_text(container, LOG_TAIL))


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
