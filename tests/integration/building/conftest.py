"""A real registry on loopback, and a reporter that keeps what it says."""

from __future__ import annotations

import io
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from rich.console import Console
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from yrpd.reporting import Reporter

CONFIGURATION = """version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: {folder}
http:
  addr: 127.0.0.1:{port}
"""


@pytest.fixture
def reporter() -> Reporter:
    """A reporter that keeps what it says."""
    reporter = Reporter(verbose=True)
    reporter.console = Console(file=io.StringIO(), width=300)
    return reporter


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry that is empty; engines speak plain HTTP to loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = tmp_path / "registry.yml"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path / "registry", port=port))
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(configuration)], stdout=log, stderr=log)
    try:
        waiting = Retrying(
            stop=stop_after_delay(60), wait=wait_fixed(0.1), retry=retry_if_exception_type(requests.ConnectionError)
        )
        waiting(requests.get, f"http://127.0.0.1:{port}/v2/", timeout=10)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
