"""Engines and kernels that the images cannot run on are named before anything changes."""

from __future__ import annotations

import pytest

from yrpd.deploying.preflight import findings
from yrpd.deploying.preflight.engine_checks import is_new_enough


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        ("18.09.0", False),
        ("19.03.15", False),
        ("20.10.0", False),
        ("20.10.9", False),
        ("20.10.10", True),
        ("20.10.24+dfsg1", True),
        ("23.0.0-rc.1", True),
        ("28.5.2", True),
        ("dev", True),
    ],
)
def test_docker_before_20_10_10_starts_no_thread_under_a_new_glibc(version: str, enough: bool) -> None:
    assert is_new_enough(version) is enough


@pytest.mark.parametrize(("page_bytes", "found"), [(4096, 0), (16384, 1), (65536, 1)])
def test_pages_that_the_worker_was_not_compiled_for_are_found(page_bytes: int, found: int) -> None:
    listed = list(findings.page_findings("one", page_bytes))
    assert [each.id for each in listed] == ["page-size"] * found
    assert all(f"{page_bytes >> 10} KiB" in each.problem for each in listed)
