"""A reporter that keeps what it says."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from yrpd.reporting import Reporter


@pytest.fixture
def reporter() -> Reporter:
    """A reporter that keeps what it says."""
    reporter = Reporter(verbose=True)
    reporter.console = Console(file=io.StringIO(), width=300)
    return reporter
