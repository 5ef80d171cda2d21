"""The faults of docs/faults.md, one after the other, on the quickstart's deployment. The long form's alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from yrpd.deploying.lab.faults.cases import FAULTS, Fault
from yrpd.deploying.lab.faults.commands import site_of
from yrpd.deploying.lab.faults.measuring import measure
from yrpd.deploying.lab.faults.site import Site
from yrpd.deploying.verification.run import Known
from yrpd.project import Project
from yrpd.reporting import Reporter

from tests.e2e.running import ROOT

# While these last, requests are slower, and none fails.
UNHURT = ("SIGSTOP of P's worker", "SIGSTOP of D's worker", "SIGSTOP of etcd", "kill -9 of D's worker")
# Those that need a disk of their own or `yr` are `invoke lab.faults`' alone.
EVERYWHERE = [fault for fault in FAULTS if not re.search("disk|yr", fault.name)]


@pytest.fixture(scope="module")
def site(report: dict[str, Any]) -> Iterator[tuple[Site, Known]]:
    assert report["passed"]
    with site_of(Project.here(), Reporter(), ROOT / "lab.toml", "cpu") as found:
        yield found


@pytest.mark.parametrize("fault", EVERYWHERE, ids=[fault.name for fault in EVERYWHERE])
def test_under_a_fault_every_answer_is_right_and_every_failure_clean(site: tuple[Site, Known], fault: Fault) -> None:
    row = measure(fault, *site)
    assert row.is_good, row.document()
    if fault.name in UNHURT:
        assert {each.verdict for each in row.while_it_lasted()} == {"right"}, row.document()
