"""From the pin to a proved answer, with the README's commands. The tests run in the order in which they stand."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from tests.e2e.inventories import DECODE_PORTS, lab_inventory
from tests.e2e.running import ROOT, Run, command, tail
from yrpd.deploying.status.counters import read_counters

TUTORIAL_PROMPT = "介绍一下北京故宫，从地理位置、历史地位以及政治地位角度来说明"


def endpoint(report: dict[str, Any]) -> str:
    return str(report["endpoint"])


def test_the_quickstart_ends_with_a_report_in_which_every_line_passes(report: dict[str, Any]) -> None:
    assert report["passed"] is True
    failed = [check for check in report["checks"] if not check["passed"]]
    assert failed == []
    assert len(report["checks"]) >= 10


def test_it_prints_the_endpoint_the_curl_line_hits_and_ttft(quickstart: Run, report: dict[str, Any]) -> None:
    said = quickstart.out + quickstart.err
    assert endpoint(report) in said
    assert "curl" in said
    assert re.search(r"TTFT", said)
    assert report["ttft"]["cold"] > report["ttft"]["warm"] > 0


def test_blocks_computed_on_host_1_were_loaded_on_host_2(report: dict[str, Any]) -> None:
    assert report["hits"]["saved_blocks"] >= report["hits"]["loaded_blocks"] > 0


def test_the_tutorials_own_request_answers(report: dict[str, Any]) -> None:
    base = endpoint(report)
    model = requests.get(f"{base}/v1/models", timeout=30).json()["data"][0]["id"]
    answer = requests.post(
        f"{base}/v1/completions",
        json={"model": model, "prompt": TUTORIAL_PROMPT, "max_tokens": 50, "temperature": 0},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 50


def test_the_same_command_again_keeps_everything_and_says_so(report: dict[str, Any]) -> None:
    again = command("bash", "scripts/quickstart.sh")
    assert again.code == 0, tail(again)
    said = again.out + again.err
    made = (
        "making",
        "applying",
        "install",
        "debootstrap",
        "assemble",
        "build",
        "moving",
        "starting yrpd",
        "waiting for yrpd",
        "stopping",
    )
    assert [line for line in said.splitlines() if line.startswith(tuple(f"--> {verb} " for verb in made))] == []
    assert "nothing had to change" in said


def test_every_container_runs_what_this_checkout_would_run(report: dict[str, Any], invoke: Callable[..., Run]) -> None:
    status = invoke("deploy.status", "--json")
    assert status.code == 0, tail(status)
    found = status.document["containers"]
    assert sorted((each["host"], each["role"]) for each in found) == [
        ("host1", "endpoint"),
        ("host1", "etcd"),
        ("host1", "prefill"),
        ("host1", "worker"),
        ("host2", "decode"),
        ("host2", "worker"),
    ]
    assert all(each["release_matches"] for each in found), found


def _uptime(invoke: Callable[..., Run], role: str) -> float:
    (entry,) = (each for each in invoke("deploy.status", "--json").document["containers"] if each["role"] == role)
    assert entry["health"] == "healthy", entry
    return float(entry["uptime_s"])


def test_a_wrong_answer_is_found(report: dict[str, Any], invoke: Callable[..., Run], tmp_path: Path) -> None:
    """The verification can fail: against an endpoint whose D runs another model it does, with exit code 9.

    Plain vLLM takes D's turn, as on hosts with one NPU each; D serves again although the verification failed.
    """
    before = _uptime(invoke, "decode")
    hosts = tmp_path / "wrong.toml"
    text = (ROOT / "lab.toml").read_text(encoding="utf-8")
    hosts.write_text(text.replace('"build/models/qwen2_5_vl"', f'"{ROOT}/build/models/qwen2"', 1), encoding="utf-8")
    run = invoke("deploy.verify", "--in-turn", "--hosts", str(hosts), "--json")
    assert run.code == 9, tail(run)
    assert run.document["passed"] is False
    assert _uptime(invoke, "decode") < before
    answer = requests.post(
        f"{endpoint(report)}/v1/completions",
        json={"model": "qwen2_5_vl", "prompt": "Hello", "max_tokens": 1},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text


def test_a_port_in_use_stops_a_deploy_before_it_begins(
    report: dict[str, Any], invoke: Callable[..., Run], tmp_path: Path
) -> None:
    # The endpoint of the running deployment owns port 9000 on host 1; a second deployment must not take it.
    hosts = tmp_path / "second.toml"
    text = (ROOT / "lab.toml").read_text(encoding="utf-8").replace('name = "yrpd"', 'name = "second"', 1)
    hosts.write_text(text.replace('"build/models', f'"{ROOT}/build/models', 1), encoding="utf-8")
    run = invoke("deploy", "--hosts", str(hosts))
    assert run.code == 8, tail(run)
    assert "9000" in run.err
    assert "next:" in run.err
    assert requests.get(f"{endpoint(report)}/v1/models", timeout=30).status_code == 200
    logs = invoke("deploy.logs", "--hosts", str(hosts), "--json")
    assert logs.document["containers"] == []


def test_doctor_finds_nothing_wrong_with_what_runs_and_saves_what_it_saw(
    report: dict[str, Any], invoke: Callable[..., Run], tmp_path: Path
) -> None:
    saved = tmp_path / "doctor.tar.gz"
    run = invoke("doctor", "--save", str(saved), "--json")
    assert run.code == 0, tail(run)
    assert run.document["problems"] == []
    with tarfile.open(saved) as tar:
        names = tar.getnames()
    for name in (
        "doctor.json",
        "verify.json",
        "host1/record.json",
        "host1/yrpd-prefill-0.log",
        "host2/yrpd-decode-0.log",
    ):
        assert any(found.endswith(name) for found in names), names
    for role in ("prefill-0", "decode-0"):
        assert any(f"-{role}/root/.datasystem/logs/" in name for name in names), names
    workers = {name.split("/")[1] for name in names if "-worker/run/yuanrong/uds/log/" in name}
    assert workers == {"host1", "host2"}, names


def test_a_missing_model_folder_stops_a_deploy_before_it_begins(
    report: dict[str, Any], invoke: Callable[..., Run], tmp_path: Path
) -> None:
    hosts = tmp_path / "missing.toml"
    text = (ROOT / "lab.toml").read_text(encoding="utf-8")
    hosts.write_text(text.replace('"build/models/qwen2_5_vl"', '"/nowhere/model"', 1), encoding="utf-8")
    run = invoke("deploy", "--hosts", str(hosts))
    assert run.code in (2, 8), tail(run)
    assert "/nowhere/model" in run.err
    assert "next:" in run.err


def test_the_text_model_with_the_ascend_scheduler_on_two_p_and_two_d_is_verified_too(
    report: dict[str, Any], invoke: Callable[..., Run], tmp_path: Path
) -> None:
    """The second model and the real AscendScheduler in place of the first: D and P are replaced, the rest is kept."""
    hosts = lab_inventory(
        tmp_path / "ascend.toml",
        prefill=("host1",) * 2,
        decode=("host2",) * 2,
        tables={"model": {"path": str(ROOT / "build" / "models" / "qwen2"), "served_name": "qwen2"}},
        scheduler="ascend",
    )
    deployed = invoke("deploy", "--hosts", str(hosts), "--json")
    assert deployed.code == 0, tail(deployed)
    verified = invoke("deploy.verify", "--hosts", str(hosts), "--json")
    assert verified.code == 0, tail(verified)
    assert verified.document["passed"] is True
    assert verified.document["hits"]["loaded_blocks"] > 0
    for port in (DECODE_PORTS, DECODE_PORTS + 1):
        counted = read_counters(requests.get(f"http://10.77.0.2:{port}/metrics", timeout=30).text)
        assert counted["loaded_blocks"] > 0, f"the D at port {port} took no part"
