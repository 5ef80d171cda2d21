"""Lets a P, D or endpoint finish its requests before it is stopped: nothing new is sent there, then it runs empty."""

from __future__ import annotations

import json
from contextlib import suppress
from threading import Event
from urllib.parse import urlsplit

import requests
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    stop_any,
    stop_never,
    stop_when_event_set,
    wait_fixed,
)

from yrpd.deploying.hosts.direct import DirectSession
from yrpd.deploying.planning import ports
from yrpd.deploying.spec import ContainerSpec, HttpProbe
from yrpd.docker.sdk import APIError, Container, NotFound
from yrpd.serving.command_lines import DRAINING
from yrpd.serving.draining import HEALTH
from yrpd.serving.envoy import Settings as Endpoint

INTERVAL_S = 0.5
REQUEST_TIMEOUT_S = 5.0
# The endpoint takes an instance out when it says 503 for its health, and in after a good answer.
LEFT_OUT_WITHIN_S = CHOSEN_WITHIN_S = 60


# Envoy's administration is a socket inside its container, which its own user alone may open.
_ADMIN = """
import http.client, socket, sys
connection = http.client.HTTPConnection("admin", timeout=5)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
connection.request(sys.argv[2], sys.argv[3])
print(connection.getresponse().read().decode())
"""
# Connections end with their next answer, and no more are taken: a client comes again when the new one listens.
# D asks for P at a listener that stays open: what the endpoint has taken on needs both.
_CLOSING = ("/healthcheck/fail", "/drain_listeners?inboundonly")
_ACTIVE = "http.endpoint.downstream_rq_active"


class BusyError(Exception):
    """It is still chosen, or still has requests; the text says which."""


def drain(
    container: Container,
    role: str,
    probe: HttpProbe,
    router: HttpProbe,
    deadline_s: int,
    abandoned: Event | None = None,
) -> str:
    """Wait until a P or D has no requests and gets none; what does not run or does not answer has none to lose.

    Args:
        container: It, running.
        role: ``prefill`` or ``decode``.
        probe: How it is asked; its port counts.
        router: Whose answer counts the P and D that are chosen among.
        deadline_s: How long requests may take to end.
        abandoned: Set by others when waiting makes no sense any more.

    Returns:
        Why it was not waited for to the end; empty when it was.
    """
    here = urlsplit(probe.url)
    if not ports.answers(here.hostname or "", here.port or 0):
        return ""  # nothing listens, such as one that a killed run had only begun to start
    try:
        before, _ = _chosen_among(router, role)
        code, _ = container.exec_run(["touch", DRAINING])
    except (APIError, BusyError) as error:
        return f"it could not be drained: {error}"
    if code != 0:
        return f"it could not be drained: it has no {DRAINING.rpartition('/')[0]}"
    try:
        if before:
            for attempt in _until(LEFT_OUT_WITHIN_S, abandoned):
                with attempt:
                    if (now := _chosen_among(router, role)[0]) >= before:
                        raise BusyError(f"the endpoint still chooses among {now} {role}")
        for attempt in _until(deadline_s, abandoned):
            with attempt:
                _demand_empty(probe)
    except BusyError as error:
        return f"it is stopped although {error}"
    return ""


def drain_endpoint(container: Container, deadline_s: int, abandoned: Event | None = None) -> str:
    """Wait until the endpoint has answered what it was asked, and let it take nothing new.

    Args:
        container: It, running.
        deadline_s: How long requests may take to end.
        abandoned: Set by others when waiting makes no sense any more.

    Returns:
        Why it was not waited for to the end; empty when it was.
    """
    try:
        for path in _CLOSING:
            _administer(container, "POST", path)
    except (APIError, BusyError) as error:
        return f"it could not be drained: {error}"
    try:
        for attempt in _until(deadline_s, abandoned):
            with attempt:
                _demand_answered(container)
    except (APIError, BusyError) as error:
        return f"it is stopped although {error}"
    return ""


def resume_endpoint(container: Container, spec: ContainerSpec) -> None:
    """Let an endpoint serve again that was being drained: its listeners are closed, so it begins anew."""
    if not isinstance(spec.probe, HttpProbe):
        return
    here = urlsplit(spec.probe.url)
    with suppress(APIError):
        container.reload()
        if container.status == "running" and not ports.answers(here.hostname or "", here.port or 0):
            container.restart()


def _demand_answered(container: Container) -> None:
    text = _administer(container, "GET", f"/stats?filter={_ACTIVE}")
    try:
        left = int(text.rpartition(":")[2])
    except ValueError:
        return  # it does not count: there is nothing to wait for
    if left:
        raise BusyError(f"{left} requests are left")


def _administer(container: Container, method: str, path: str) -> str:
    socket = f"{Endpoint.folder}/admin.sock"
    code, said = container.exec_run(["python3", "-c", _ADMIN, socket, method, path], stderr=False)
    if code != 0:
        raise BusyError("Envoy's administration does not answer")
    return said.decode().strip() if isinstance(said, bytes) else ""


def wait_until_chosen(router: HttpProbe, role: str) -> str:
    """Wait until the endpoint chooses among all P or all D; return why it was not waited for to the end."""
    try:
        for attempt in _until(CHOSEN_WITHIN_S):
            with attempt:
                _demand_all_chosen(router, role)
    except BusyError as error:
        return str(error)
    return ""


def resume(container: Container) -> None:
    """Let a P or D serve again that was being drained; one that does not run needs nothing.

    Raises:
        NotFound: It is gone.
    """
    try:
        container.exec_run(["rm", "-f", DRAINING])
    except NotFound:
        raise
    except APIError:
        return


def _until(seconds: float, abandoned: Event | None = None) -> Retrying:
    given_up = stop_when_event_set(abandoned) if abandoned else stop_never
    return Retrying(
        stop=stop_any(stop_after_delay(seconds), given_up),
        wait=wait_fixed(INTERVAL_S),
        retry=retry_if_exception_type(BusyError),
        reraise=True,
    )


def _demand_all_chosen(router: HttpProbe, role: str) -> None:
    chosen, there = _chosen_among(router, role)
    if chosen < there:
        raise BusyError(f"the endpoint chooses among {chosen} of {there} {role}")


def _demand_empty(probe: HttpProbe) -> None:
    base = "/".join(probe.url.split("/")[:3])
    try:
        left = int(json.loads(_get(base + HEALTH))["unfinished"])
    except (ValueError, KeyError, TypeError):
        return  # it does not count, or no longer answers for itself: there is nothing to wait for
    if left:
        raise BusyError(f"{left} requests are left")


def _chosen_among(router: HttpProbe, role: str) -> tuple[int, int]:
    """Return how many P or D the endpoint thinks healthy, and how many it has."""
    counted = dict(line.partition(": ")[::2] for line in _get(router.url).splitlines())
    try:
        healthy, there = (int(counted[f"cluster.{role}.membership_{what}"]) for what in ("healthy", "total"))
    except (ValueError, KeyError):
        return 0, 0
    return healthy, there


def _get(url: str) -> str:
    try:
        with DirectSession() as session:
            return session.get(url, timeout=REQUEST_TIMEOUT_S).text
    except requests.RequestException as error:
        raise BusyError(f"{url} does not answer ({type(error).__name__})") from error
