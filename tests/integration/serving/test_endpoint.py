"""The endpoint: the image's Envoy, and P and D with their middleware in vLLM's HTTP server, which fail when told to."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.integration.serving.conftest import Front, end, free_ports, start, wait_until_ready
from tests.integration.serving.engines import Engine, running
from yrpd.deploying.verifying.client import AskError, Server, ask_plainly
from yrpd.serving import command_lines
from yrpd.serving.envoy import Settings

BODY = {"model": "m", "prompt": "x", "max_tokens": 3}


def complete(front: Front, **more: Any) -> requests.Response:
    return requests.post(f"{front.url}/v1/completions", json=BODY, timeout=60, **more)


@retry(retry=retry_if_exception_type(AssertionError), stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True)
def eventually(holds: Callable[[], bool]) -> None:
    assert holds()


def test_d_gets_what_the_client_sent_byte_for_byte_and_p_one_token_of_it(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=1)
    sent = (
        b' {"prompt": "caf\\u00e9 \xf0\x9f\x90\x8d", "model":"m",  "temperature": 0.7, "stop": null, '
        b'"seed": 18446744073709551615}\n'
    )
    answer = requests.post(
        f"{front.url}/v1/completions", data=sent, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert answer.json()["choices"][0]["text"] == "d0"
    assert front.decode[0].seen[0][1] == sent
    assert front.prefill[0].asked == [{"prompt": "café 🐍", "model": "m", "max_tokens": 1}]


def test_a_p_that_refuses_or_breaks_off_is_left_for_another_and_the_client_sees_nothing_of_it(
    make_front: Callable[..., Front],
) -> None:
    front = make_front()
    for failing, status in zip(front.prefill, (503, -1), strict=True):
        failing.status = status
        before = len(failing.seen)
        assert [complete(front).status_code for _ in range(4)] == [200] * 4
        assert len(failing.seen) > before, "the failing P was never asked"
        failing.status = 200


def test_requests_at_once_find_the_p_that_works(make_front: Callable[..., Front]) -> None:
    front = make_front(tries=8)
    front.prefill[0].status = 503
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: complete(front).status_code, range(64)))
    assert answers == [200] * 64


def test_without_a_p_that_works_the_client_gets_503_with_retry_after_and_decode_computes_nothing(
    make_front: Callable[..., Front],
) -> None:
    front = make_front(retry_after_s=7)
    for status in (503, -1):
        for each in front.prefill:
            each.status = status
        answer = complete(front)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json()["code"] == 503
        assert "x-yrpd-retry" not in answer.headers
    assert front.decode[0].seen == []


def test_without_a_d_the_client_gets_the_same_503(make_front: Callable[..., Front]) -> None:
    front = make_front(retry_after_s=7)
    front.list_members("decode", [])
    eventually(lambda: complete(front).status_code == 503)
    answer = complete(front)
    assert (answer.headers["Retry-After"], answer.headers["Content-Type"]) == ("7", "application/json")
    assert answer.json()["type"] == "ServiceUnavailableError"


def test_a_request_that_kills_the_engine_of_a_p_is_tried_on_no_other(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=3, decode=2)
    for each in front.prefill:
        each.status, each.said = 500, b""  # what vLLM's server says when its engine has died
    assert complete(front).status_code == 503
    assert sum(len(each.seen) for each in front.prefill) == 1
    assert front.decode[0].seen == front.decode[1].seen == []


def test_what_p_says_it_cannot_do_is_told_once_as_it_says_it(make_front: Callable[..., Front]) -> None:
    front = make_front()
    for each in front.prefill:
        each.status = 500
    answer = complete(front)
    assert (answer.status_code, answer.json()["message"][0]) == (500, "p")
    assert sum(len(each.seen) for each in front.prefill) == 1


def test_a_d_that_breaks_off_is_left_for_another_and_one_that_says_500_is_not(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=1, decode=2)
    front.decode[0].status = -1
    assert [complete(front).json()["choices"][0]["text"] for _ in range(4)] == ["d1"] * 4
    for each in front.decode:
        each.status = 500
    before = sum(len(each.seen) for each in front.decode)
    answer = complete(front)
    assert (answer.status_code, answer.json()["object"]) == (500, "error")
    assert sum(len(each.seen) for each in front.decode) == before + 1


def test_what_the_client_did_wrong_is_told_by_d_once(make_front: Callable[..., Front]) -> None:
    front = make_front()
    for times, status in enumerate((400, 404, 429), 1):
        for each in (*front.prefill, *front.decode):
            each.status = status
        answer = complete(front)
        assert (answer.status_code, answer.json()["message"]) == (status, "d0")
        assert sum(len(each.seen) for each in front.prefill) == times


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"prompt": "x", "echo": true}', b'{"prompt": "x", "prompt_logprobs": 0}']
)
def test_what_p_could_not_help_with_goes_to_d_alone(make_front: Callable[..., Front], body: bytes) -> None:
    front = make_front(prefill=1)
    assert requests.post(f"{front.url}/v1/completions", data=body, timeout=60).status_code == 200
    assert [seen for _, seen in front.decode[0].seen] == [body]
    assert front.prefill[0].seen == []


def test_decode_prefills_alone_where_that_is_allowed(make_front: Callable[..., Front]) -> None:
    front = make_front(alone=True)
    assert complete(front).status_code == 200
    for said in (None, b""):
        for each in front.prefill:
            each.status, each.said = 500, said
        assert complete(front).json()["choices"][0]["text"] == "d0"
    front.list_members("prefill", [])
    eventually(lambda: front.readiness()["prefill.membership_total"] == 0)
    assert complete(front).json()["choices"][0]["text"] == "d0"


def test_a_stream_arrives_whole(make_front: Callable[..., Front]) -> None:
    front = make_front()
    answer = requests.post(f"{front.url}/v1/completions", json={**BODY, "stream": True}, timeout=60)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert [line for line in answer.text.splitlines() if line] == ["data: 0", "data: 1", "data: 2", "data: [DONE]"]
    assert all("stream" not in body for each in front.prefill for body in each.asked)


def test_a_client_that_leaves_is_gone_for_the_engine_too(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=1)
    for engine in (front.decode[0], front.prefill[0]):
        engine.status = 0
        with pytest.raises(requests.Timeout):
            requests.post(f"{front.url}/v1/completions", json=BODY, timeout=(5, 1))
        assert engine.left.wait(30), f"{engine.name} still works for a client that has left"
    assert len(front.decode[0].seen) == 1, "D began what no client waited for"


def test_ids_of_requests_are_the_engines_own_and_clients_ids_are_in_every_log(
    make_front: Callable[..., Front], caplog: pytest.LogCaptureFixture
) -> None:
    front = make_front(prefill=1)
    caplog.set_level("INFO", "vllm.yrpd.pairing")
    answers = [complete(front, headers={"X-Request-Id": "theirs"}).json()["id"] for _ in range(2)]
    assert len({*answers}) == 2
    assert all(len(each) == 32 for each in answers)
    told = [record.getMessage() for record in caplog.records]
    assert [any(each in line and "'theirs'" in line for line in told) for each in answers] == [True, True]
    for engine in (front.prefill[0], front.decode[0]):
        ids = [headers["x-request-id"] for headers, _ in engine.seen]
        assert "theirs" not in ids
        assert all(any(each in line and "'theirs'" in line for line in told) for each in ids)
    eventually(lambda: front.log.read_text("utf-8").count('"id":"theirs"') == 4)


def test_http_1_0_is_spoken(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=1)

    class Old(HTTPConnection):
        _http_vsn, _http_vsn_str = 10, "HTTP/1.0"

    connection = Old(urlsplit(front.url).netloc, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(BODY), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["choices"][0]["text"]) == (200, "d0")


def test_only_clients_with_a_key_are_let_in_and_their_key_stays_here(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    keys, engine = tmp_path / "keys", tmp_path / "engine"
    keys.write_text("# theirs\nalpha\nbeta\n", encoding="utf-8")
    engine.write_text("inner\n", encoding="utf-8")
    front = make_front(client_keys=str(keys), engine_key=str(engine))
    for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer gamma"}, {"Authorization": "alpha"}):
        refused = complete(front, headers=headers)
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"}), headers
        assert requests.get(f"{front.url}/v1/models", headers=headers, timeout=30).status_code == 401
    assert front.prefill[0].seen == front.prefill[1].seen == []
    for key in ("alpha", "beta"):
        assert complete(front, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert requests.get(f"{front.url}/health", timeout=30).status_code == 200
    asked = requests.options(f"{front.url}/v1/completions", headers={"Origin": "http://page"}, timeout=30)
    assert asked.status_code != 401, "a browser asks without a key"
    for each in (*front.prefill, *front.decode):
        assert {headers.get("authorization") for headers, _ in each.seen} <= {"Bearer inner", None}
        assert "alpha" not in str(each.seen)
    said = front.log.read_text(encoding="utf-8")
    assert "alpha" not in said
    assert "inner" not in said


def test_an_endpoint_whose_key_file_is_empty_does_not_start(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    settings = Settings("127.0.0.1", 1, 2, 3, client_keys=str(tmp_path / "keys"), folder=str(tmp_path))
    process = start(programs, command_lines.endpoint(settings), tmp_path / "log")
    assert process.wait(60) == 1
    assert "has no key" in (tmp_path / "log").read_text(encoding="utf-8")


def test_operators_paths_are_not_the_clients_and_ps_door_has_three(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=1)
    for path in ("/metrics", "/load", "/v1/load_lora_adapter", "/reset_prefix_cache", "/", "/v1/../metrics"):
        for method in ("GET", "POST"):
            assert requests.request(method, front.url + path, timeout=30).status_code == 404
    for method, path in (("GET", "/v1/completions"), ("GET", "/v1/models"), ("POST", "/tokenize"), ("GET", "/health")):
        assert requests.request(method, front.prefill_url + path, timeout=30).status_code == 404


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


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_drained_engine_finishes_what_it_has_and_gets_nothing_new(
    make_front: Callable[..., Front], role: str
) -> None:
    front = make_front(prefill=2, decode=2)
    drained, other = getattr(front, role)
    other.status = 503 if role == "prefill" else -1  # so that the one to be drained gets the request
    drained.answers_after.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(complete, front)
        eventually(lambda: bool(drained.seen))
        other.status = 200
        drained.draining.touch()
        counts = {"prefill": 2, "decode": 2, role: 1}
        wait_until_ready(front, counts["prefill"], counts["decode"])
        before = len(drained.seen)
        assert [complete(front).status_code for _ in range(6)] == [200] * 6
        assert len(drained.seen) == before
        health = requests.get(f"http://{drained.authority}/health", timeout=30)
        assert (health.status_code, health.json()) == (503, {"unfinished": 1})
        drained.answers_after.set()
        assert waiting.result(30).status_code == 200


def test_engines_come_and_go_while_the_endpoint_serves(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=1, decode=1)
    failed, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            if (answer := complete(front)).status_code != 200:
                failed.append(answer.text)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with running(Engine("p1")) as p1, running(Engine("d1", pairing=front.decode[0].pairing)) as d1:
            front.list_members("prefill", [front.prefill[0].authority, p1.authority])
            front.list_members("decode", [front.decode[0].authority, d1.authority])
            eventually(lambda: bool(p1.seen) and bool(d1.seen))
            front.list_members("decode", [front.decode[0].authority])
            front.list_members("prefill", [front.prefill[0].authority])
            wait_until_ready(front, 1, 1)
            eventually(lambda: front.readiness()["decode.membership_total"] == 1)
            before = len(d1.seen)
            assert [complete(front).status_code for _ in range(4)] == [200] * 4
            assert len(d1.seen) == before
    finally:
        stop.set()
        asking.join()
    assert failed == []


def test_a_long_answer_and_a_long_queue_are_waited_for(make_front: Callable[..., Front]) -> None:
    front = make_front(prefill=1, health_interval_s=1)
    with ThreadPoolExecutor(2) as pool:
        for engine in (front.prefill[0], front.decode[0]):
            engine.answers_after.clear()
            waiting = pool.submit(complete, front)
            with pytest.raises(TimeoutError):
                waiting.result(12)  # several health checks, and every default of Envoy's that is short
            engine.answers_after.set()
            assert waiting.result(30).status_code == 200
    assert len(front.prefill[0].seen) == len(front.decode[0].seen) == 2


def test_an_engine_that_hangs_gets_nothing_new(make_front: Callable[..., Front], tmp_path: Path) -> None:
    front = make_front(prefill=1)
    (port,) = free_ports(1)
    hanging = start(
        tmp_path, ("python3", str(Path(__file__).with_name("engines.py")), "p1", str(port)), tmp_path / "p1"
    )
    try:
        front.list_members("prefill", [front.prefill[0].authority, f"127.0.0.1:{port}"])
        wait_until_ready(front, 2, 1)
        hanging.send_signal(signal.SIGSTOP)
        wait_until_ready(front, 1, 1)
        assert [complete(front).status_code for _ in range(6)] == [200] * 6
    finally:
        with suppress(ProcessLookupError):
            end(hanging)
