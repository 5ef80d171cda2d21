"""The program that looks at a host from inside a container: run as it is run there, by its text alone."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from yrpd.deploying.preflight import findings
from yrpd.deploying.preflight.host_survey import PROGRAM


def run(asked: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.read_text(encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-I", "-c", program, json.dumps(asked)], capture_output=True, text=True, timeout=60
    )


def test_a_file_whose_target_is_gone_is_an_incomplete_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "pruned")
    done = run(
        {"look": {"address": "127.0.0.1", "ports": [], "folder": str(tmp_path), "spill": "", "nodes": [], "npus": {}}}
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (found,) = findings.incomplete_model("one", "/m", report["files"], report["index"], "copy it")
    assert found.problem == "the model in /m has nothing in model.safetensors"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_what_listens_is_reached_and_what_does_not_is_named() -> None:
    used, closed = free_port(), free_port()
    asked = json.dumps({"listen": {"address": "127.0.0.1", "ports": [used]}})
    command = [sys.executable, "-I", "-c", PROGRAM.read_text(encoding="utf-8"), asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "listening\n"
            done = run({"dial": {"targets": [["127.0.0.1", used], ["127.0.0.1", closed]]}})
        finally:
            listener.kill()
    assert done.returncode == 0, done.stderr
    ((address, port, why),) = json.loads(done.stdout)["unreachable"]
    assert (address, port) == ("127.0.0.1", closed)
    assert "refused" in why


def test_what_it_cannot_do_is_a_failure_with_a_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run({"listen": {"address": "127.0.0.1", "ports": [taken.getsockname()[1]]}})
    assert done.returncode != 0
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr
