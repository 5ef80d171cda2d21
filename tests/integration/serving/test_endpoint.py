"""The endpoint: the real vllm-router and Envoy in front of engines that fail when they are told to."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.integration.serving.conftest import Front, start
from yrpd.deploying.verifying.client import AskError, Server, ask_plainly
from yrpd.serving import command_lines
from yrpd.serving.envoy import Settings

BODY = {"model": "m", "prompt": "x", "max_tokens": 3}


def complete(front: Front, **more: Any) -> requests.Response:
    return requests.post(f"{front.url}/v1/completions", json=BODY, timeout=60, **more)


def test_a_failed_prefill_is_tried_on_another_p_and_the_client_sees_nothing_of_it(
    make_front: Callable[..., Front],
) -> None:
    front = make_front()
    for failing, status in zip(front.prefill, (500, 503), strict=True):
        failing.status = status
        before = len(failing.seen)
        assert [complete(front).status_code for _ in range(4)] == [200] * 4
        assert len(failing.seen) > before, "the failing P was never asked"
        failing.status = 200


def test_requests_at_once_find_the_p_that_works(make_front: Callable[..., Front]) -> None:
    front = make_front(tries=8)
    front.prefill[0].status = 500
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: complete(front).status_code, range(64)))
    assert answers == [200] * 64


def test_without_a_p_that_works_the_client_gets_503_with_retry_after_and_decode_is_not_asked(
    make_front: Callable[..., Front],
) -> None:
    front = make_front(retry_after_s=7)
    for each in front.prefill:
        each.status = 500
    answer = complete(front)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["code"] == 503
    assert front.decode[0].seen == []


def test_what_the_client_did_wrong_is_told_once_as_the_engine_says_it(make_front: Callable[..., Front]) -> None:
    front = make_front()
    for times, status in enumerate((400, 404, 429), 1):
        for each in front.prefill:
            each.status = status
        answer = complete(front)
        assert answer.status_code == status
        assert answer.json()["object"] == "error"
        assert sum(len(each.seen) for each in front.prefill) == times


def test_decode_prefills_alone_where_that_is_allowed_and_each_time_is_counted(
    make_front: Callable[..., Front],
) -> None:
    front = make_front(alone=True)
    assert complete(front).status_code == 200
    assert front.counter("envoy_cluster_upstream_rq_total", "decode-alone") == 0
    for each in front.prefill:
        each.status = 500
    assert [complete(front).status_code for _ in range(3)] == [200] * 3
    assert front.counter("envoy_cluster_upstream_rq_total", "decode-alone") == 3


def test_a_stream_arrives_whole(make_front: Callable[..., Front]) -> None:
    front = make_front()
    answer = requests.post(f"{front.url}/v1/completions", json={**BODY, "stream": True}, timeout=60)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert [line for line in answer.text.splitlines() if line] == ["data: 0", "data: 1", "data: 2", "data: [DONE]"]


def test_a_client_that_leaves_is_gone_for_the_engine_too(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=1)
    for engine in (front.decode[0], front.prefill[0]):
        engine.status = 0
        with pytest.raises(requests.Timeout):
            requests.post(f"{front.url}/v1/completions", json=BODY, timeout=(5, 1))
        assert engine.left.wait(30), f"{engine.name} still works for a client that has left"


def test_a_try_that_says_nothing_is_given_up(make_front: Callable[..., Front]) -> None:
    front = make_front(idle_timeout_s=1)
    front.prefill[0].status = 0
    assert [complete(front).status_code for _ in range(2)] == [200] * 2


def test_only_clients_with_a_key_are_let_in_and_their_key_stays_here(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    keys, engine = tmp_path / "keys", tmp_path / "engine"
    keys.write_text("# theirs\nalpha\nbeta\n", encoding="utf-8")
    engine.write_text("inner\n", encoding="utf-8")
    front = make_front(alone=True, client_keys=str(keys), engine_key=str(engine))
    for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer gamma"}, {"Authorization": "alpha"}):
        refused = complete(front, headers=headers)
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"}), headers
        assert requests.get(f"{front.url}/v1/models", headers=headers, timeout=30).status_code == 401
    assert front.prefill[0].seen == front.prefill[1].seen == []
    for key in ("alpha", "beta"):
        assert complete(front, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert requests.get(f"{front.url}/health", timeout=30).status_code == 200
    for each in front.prefill:
        each.status = 500
    complete(front, headers={"Authorization": "Bearer alpha"})
    seen = json.dumps([headers for each in (*front.prefill, *front.decode) for headers, _ in each.seen])
    assert "alpha" not in seen
    assert front.decode[0].seen[-1][0]["authorization"] == "Bearer inner"
    said = (tmp_path / "endpoint.log").read_text(encoding="utf-8") + (tmp_path / "router.log").read_text("utf-8")
    assert "alpha" not in said
    assert "inner" not in said


def test_an_endpoint_whose_key_file_is_empty_does_not_start(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    settings = Settings("127.0.0.1", 1, 2, "127.0.0.1:3", client_keys=str(tmp_path / "keys"), folder=str(tmp_path))
    process = start(programs, command_lines.endpoint(settings), tmp_path / "log")
    assert process.wait(60) == 1
    assert "has no key" in (tmp_path / "log").read_text(encoding="utf-8")


def test_the_routers_own_paths_are_not_the_clients(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=1)
    for path in ("/list_workers", "/add_worker?url=http://evil:1", "/flush_cache", "/metrics", "/", "/v1/../workers"):
        for method in ("GET", "POST"):
            assert requests.request(method, front.url + path, timeout=30).status_code == 404


def test_tls_with_the_given_certificate(make_front: Callable[..., Front], tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    line = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=endpoint -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*line.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    front = make_front(prefill=1, scheme="https", certificate=str(certificate), key=str(key))
    got = ask_plainly(Server(front.url, ca=str(certificate)), "/v1/completions", BODY)
    assert got["choices"][0]["text"] == "d0"
    with pytest.raises(AskError, match="certificate verify failed"):
        ask_plainly(front.url, "/v1/completions", BODY)
    with pytest.raises(requests.ConnectionError):
        requests.get(front.url.replace("https", "http") + "/health", timeout=30)


@retry(retry=retry_if_exception_type(AssertionError), stop=stop_after_delay(60), wait=wait_fixed(0.2), reraise=True)
def wait_until_counted(front: Front, role: str, count: int) -> None:
    found = requests.get(f"{front.metrics}/readiness", timeout=30).json()
    assert found[role]["healthy"] == count


def test_a_drained_p_gets_nothing_new(make_front: Callable[..., Front]) -> None:
    front = make_front()
    front.prefill[0].healthy = False
    wait_until_counted(front, "prefill", 1)
    before = len(front.prefill[0].seen)
    assert [complete(front).status_code for _ in range(6)] == [200] * 6
    assert len(front.prefill[0].seen) == before
