"""The program that looks at a host from inside a container: run as it is run there, by its text alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from yrpd.deploying.preflight import findings
from yrpd.deploying.preflight.host_survey import PROGRAM


def run(asked: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.read_text(encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-I", "-c", program, json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def look(folder: Path, environment: dict[str, str] | None = None, **asked: Any) -> dict[str, Any]:
    """Return what the program sees, asked for nothing but what is given."""
    nothing = {"ports": [], "spill": "", "nodes": [], "npus": {}, "plugin": "", "hccl_ports": []}
    done = run({"look": {"address": "127.0.0.1", "folder": str(folder), **nothing, **asked}}, **(environment or {}))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_file_whose_target_is_gone_is_an_incomplete_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "pruned")
    report = look(tmp_path)
    (found,) = findings.incomplete_model("one", "/m", report["files"], report["index"], "copy it")
    assert found.problem == "the model in /m has nothing in model.safetensors"


# What hccn_tool answers, as Huawei's own pages show it: HCCL's troubleshooting (tls) and the tool's reference.
HCCN_TOOL = """#!/bin/sh
case "$2 $3" in
    "0 -ip") printf 'ipaddr:10.1.0.1\\nnetmask:255.255.255.0\\n' ;;
    "0 -link") echo 'link status: UP' ;;
    "1 -link") echo 'link status: DOWN' ;;
    *" -tls") echo "dev_id:$2, tls switch[$2](0:disable, 1:enable), tls alarm time threshold[60]days" ;;
    *) echo 'dcmi module initialize failed. ret is -8005'; exit 1 ;;
esac
"""


def test_npus_are_asked_by_the_numbers_inside_and_reported_by_those_of_the_host(tmp_path: Path) -> None:
    for name, text in (("hccn_tool", HCCN_TOOL), ("npu-smi", '#!/bin/sh\necho "$*"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    report = look(tmp_path, {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, npus={"0": "3", "1": "5"})
    assert report["hccn_tool"] == {"3": "10.1.0.1", "5": None}
    assert report["links"] == {"3": {"link": "UP", "tls": "0"}, "5": {"link": "DOWN", "tls": "1"}}
    assert report["npu_smi"] == "info\n"


def test_a_shared_object_is_loaded_in_a_process_of_its_own(tmp_path: Path) -> None:
    import _ctypes

    broken = tmp_path / "libacl_plugin.so"
    broken.write_text("no library")
    assert look(tmp_path, plugin=_ctypes.__file__)["plugin"] == ""
    assert "libacl_plugin.so" in look(tmp_path, plugin=str(broken))["plugin"]
    assert look(tmp_path, plugin="/nowhere/x.so")["plugin"] == "/nowhere/x.so is not in the image"


def test_ports_of_hccl_are_tried(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert look(tmp_path, hccl_ports=[port])["hccl_busy"] == [port]


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
