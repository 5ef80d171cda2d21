"""Lets a P or D finish its requests before it is stopped: the router no longer chooses it, then it runs empty."""

from __future__ import annotations

import json
from contextlib import suppress
from urllib.parse import urlsplit

import requests
from docker.errors import APIError
from docker.models.containers import Container
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from yrpd.deploying import ports
from yrpd.deploying.spec import ContainerSpec, HttpProbe, Role
from yrpd.serving.command_lines import DRAINING
from yrpd.serving.draining import HEALTH

INTERVAL_S = 0.5
REQUEST_TIMEOUT_S = 5.0
# The router takes an instance out after two failed health checks, and in after a good one.
LEFT_OUT_WITHIN_S = CHOSEN_WITHIN_S = 60


class BusyError(Exception):
    """It is still chosen, or still has requests; the text says which."""


def drain(container: Container, spec: ContainerSpec, router: HttpProbe, deadline_s: int) -> str:
    """Wait until a P or D has no requests and gets none; what does not run or does not answer has none to lose.

    Args:
        container: It, running.
        spec: What it runs, or what will replace it on the same port.
        router: Whose answer counts the P and D that are chosen among.
        deadline_s: How long requests may take to end.

    Returns:
        Why it was not waited for to the end; empty when it was.
    """
    if not isinstance(spec.probe, HttpProbe):
        return f"{spec.name} has no HTTP port"
    here = urlsplit(spec.probe.url)
    if not ports.answers(here.hostname or "", here.port or 0):
        return ""  # nothing listens, such as one that a killed run had only begun to start
    try:
        before, _ = _chosen_among(router, spec.role)
        code, _ = container.exec_run(["touch", DRAINING])
    except (APIError, BusyError) as error:
        return f"{spec.name} on {spec.host} could not be drained: {error}"
    if code != 0:
        return f"{spec.name} on {spec.host} could not be drained: it has no {DRAINING.rpartition('/')[0]}"
    try:
        if before:
            for attempt in _until(LEFT_OUT_WITHIN_S):
                with attempt:
                    _demand_left_out(router, spec.role, before)
        for attempt in _until(deadline_s):
            with attempt:
                _demand_empty(spec.probe)
    except BusyError as error:
        return f"{spec.name} on {spec.host} is stopped although {error}"
    return ""


def wait_until_chosen(router: HttpProbe, role: Role) -> str:
    """Wait until the router chooses among all P or all D; return why it was not waited for to the end."""
    try:
        for attempt in _until(CHOSEN_WITHIN_S):
            with attempt:
                _demand_all_chosen(router, role)
    except BusyError as error:
        return str(error)
    return ""


def resume(container: Container) -> None:
    """Let a P or D serve again that was being drained; one that does not run needs nothing."""
    with suppress(APIError):
        container.exec_run(["rm", "-f", DRAINING])


def _until(seconds: float) -> Retrying:
    return Retrying(
        stop=stop_after_delay(seconds),
        wait=wait_fixed(INTERVAL_S),
        retry=retry_if_exception_type(BusyError),
        reraise=True,
    )


def _demand_left_out(router: HttpProbe, role: Role, before: int) -> None:
    if (now := _chosen_among(router, role)[0]) >= before:
        raise BusyError(f"the router still chooses among {now} {role}")


def _demand_all_chosen(router: HttpProbe, role: Role) -> None:
    chosen, there = _chosen_among(router, role)
    if chosen < there:
        raise BusyError(f"the router chooses among {chosen} of {there} {role}")


def _demand_empty(probe: HttpProbe) -> None:
    base = "/".join(probe.url.split("/")[:3])
    try:
        left = int(json.loads(_get(base + HEALTH))["unfinished"])
    except (ValueError, KeyError, TypeError):
        return  # it does not count, or no longer answers for itself: there is nothing to wait for
    if left:
        raise BusyError(f"{left} requests are left")


def _chosen_among(router: HttpProbe, role: Role) -> tuple[int, int]:
    """Return how many P or D the router thinks healthy, and how many it has; it answers 503 when none is healthy."""
    try:
        counted = json.loads(_get(router.url))[role]
        return int(counted["healthy"]), int(counted["total"])
    except (ValueError, KeyError, TypeError):
        return 0, 0


def _get(url: str) -> str:
    try:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(url, timeout=REQUEST_TIMEOUT_S).text
    except requests.RequestException as error:
        raise BusyError(f"{url} does not answer ({type(error).__name__})") from error
