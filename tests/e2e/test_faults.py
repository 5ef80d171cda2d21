"""Faults under load, and clients that leave: every answer is right, every failure clean, nothing stays behind.

The faults are those of docs/faults.md. The short form has the ones that cost no request, on the quickstart's
deployment; the long form has all of them, with two P and two D.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.inventories import lab_inventory
from tests.e2e.running import FULL, ROOT, Run, tail
from workshop.faults.cases import FAULTS, Fault
from workshop.faults.commands import site_of
from workshop.faults.known import Known
from workshop.faults.leftovers import leftovers
from workshop.faults.measuring import measure
from workshop.faults.site import Site
from workshop.faults.stream import Stream
from yrpd.deploying.verifying.client import ask
from yrpd.project import Project
from yrpd.reporting import Reporter

PREFILL = "http://10.77.0.1:8100"
DECODE = "http://10.77.0.2:8200"
ABORTS = 200 if FULL else 60
ANSWERS = 8
ANSWERED_WITHIN_S = 300.0
# While these last and while they are mended, requests are slower, and none fails.
UNHURT = (
    "SIGSTOP of P's worker",
    "SIGSTOP of D's worker",
    "SIGSTOP of etcd",
    "kill -9 of D's worker",
    "rolling update of every worker",
)
# The same where each role has two instances.
UNHURT_BY_TWO = (*UNHURT, "kill -9 of a P", "rolling update of every D")
# Those that need a disk of their own, `yr` or a restart policy, or last for minutes, are `invoke lab.faults`' alone.
CASES = [
    fault
    for fault in FAULTS
    if (not re.search("disk|yr|minutes|powered", fault.name) if FULL else fault.name in UNHURT)
]


@pytest.fixture(scope="module")
def site(
    report: dict[str, Any], invoke: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Known]]:
    assert report["passed"]
    hosts = ROOT / "lab.toml"
    if FULL:
        file = tmp_path_factory.mktemp("two") / "hosts.toml"
        hosts = lab_inventory(file, prefill=("host1",) * 2, decode=("host2",) * 2)
    deploy(invoke, hosts)  # changes nothing where the quickstart's is still there
    with site_of(Project.here(), Reporter(), hosts, "cpu") as found:
        yield found
    if FULL:
        deploy(invoke, ROOT / "lab.toml")


def deploy(invoke: Callable[..., Run], hosts: Path) -> None:
    deployed = invoke("deploy", "--hosts", str(hosts))
    assert deployed.code == 0, tail(deployed)


@pytest.mark.parametrize("fault", CASES, ids=[fault.name for fault in CASES])
def test_under_a_fault_every_answer_is_right_and_every_failure_clean(site: tuple[Site, Known], fault: Fault) -> None:
    row = measure(fault, *site)
    assert row.is_good, row.document()
    if fault.name in (UNHURT_BY_TWO if FULL else UNHURT):
        assert {each.verdict for each in row.sent} == {"right"}, row.document()


def test_clients_that_leave_leak_no_block(site: tuple[Site, Known]) -> None:
    """Clients that go away while prefill saves, while decode loads, and while decode answers."""
    where, known = site
    question, salt, dice = known.questions["several blocks"], uuid.uuid4().hex, random.Random(7)
    ask(PREFILL, known.model, question, salt)

    def leave(number: int) -> None:
        base = (PREFILL, DECODE, known.endpoint.url)[number % 3]
        body = {**question.body, "model": known.model, "max_tokens": 200, "stream": True}
        # Every other one finds its blocks and is left while it loads them.
        body["cache_salt"] = salt + ("" if number % 2 else str(number))
        with requests.Session() as session:
            try:
                answer = session.post(
                    base + question.path, json=body, stream=True, timeout=(10, dice.choice([0.01, 0.05, 0.2, 0.6]))
                )
                next(answer.iter_content(64), None)
            except requests.RequestException:
                return  # the client gave up, which is what this is about

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(ABORTS)))
    assert leftovers(where.deployment, where.lab, where.clients) == []
    with Stream(known) as stream:
        assert stream.wait_for(ANSWERS, stream.now(), ANSWERED_WITHIN_S)
    assert {each.verdict for each in stream.sent()} == {"right"}, [each.problem for each in stream.sent()]
    assert leftovers(where.deployment, where.lab, where.clients) == []
