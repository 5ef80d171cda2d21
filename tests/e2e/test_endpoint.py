"""The endpoint of the running deployment against P's own HTTP server, which is plain vLLM's."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.e2e.running import ROOT

PLAIN = "http://10.77.0.1:8100"
DECODE = "http://10.77.0.2:8200"
MODEL = "qwen2_5_vl"
GREEDY = {"model": MODEL, "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def endpoint(report: dict[str, Any]) -> str:
    return str(report["endpoint"])


def post(base: str, path: str, body: dict[str, Any] | str, **more: Any) -> requests.Response:
    data = body if isinstance(body, str) else json.dumps(body)
    return requests.post(base + path, data=data, headers={"Content-Type": "application/json"}, timeout=300, **more)


def picture() -> str:
    file = sorted((ROOT / "build" / "models" / "images").glob("*.png"))[0]
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def shape(value: Any) -> Any:
    """Return a JSON value's fields without what every answer has of its own."""
    if isinstance(value, dict):
        return {
            name: shape(each)
            for name, each in value.items()
            if name not in ("id", "created", "kv_transfer_params") and each is not None
        }
    return [shape(each) for each in value] if isinstance(value, list) else value


CHAT = [{"role": "user", "content": "What is this about?"}]
TOOLS = [{"type": "function", "function": {"name": "nothing"}}]
NOWHERE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}]}]
ASKED = {
    "completion": ("/v1/completions", {**GREEDY, "prompt": "The old harbour"}),
    "several prompts": ("/v1/completions", {**GREEDY, "prompt": ["One", "Two"]}),
    "echo": ("/v1/completions", {**GREEDY, "prompt": "The old", "echo": True}),
    "logprobs": ("/v1/completions", {**GREEDY, "prompt": "The old", "logprobs": 2}),
    "the prompt's log-probabilities": ("/v1/completions", {**GREEDY, "prompt": "The old", "echo": True, "logprobs": 2}),
    "nulls": ("/v1/completions", {**GREEDY, "prompt": "The old", "stream": None, "logprobs": None, "echo": None}),
    "a stop token beyond the vocabulary": (
        "/v1/completions",
        {**GREEDY, "prompt": "The old", "stop_token_ids": [5000]},
    ),
    "a seed": ("/v1/completions", {**GREEDY, "prompt": "The old", "temperature": 0.7, "seed": 7}),
    "a call that must be": (
        "/v1/chat/completions",
        {**GREEDY, "messages": CHAT, "tools": TOOLS, "tool_choice": "required", "max_tokens": 200},
    ),
    "chat": ("/v1/chat/completions", {**GREEDY, "messages": CHAT}),
    "chat with logprobs": ("/v1/chat/completions", {**GREEDY, "messages": CHAT, "logprobs": True, "top_logprobs": 2}),
    "max_completion_tokens": (
        "/v1/chat/completions",
        {"model": MODEL, "temperature": 0, "max_completion_tokens": 4, "messages": CHAT},
    ),
}


def without_rounding(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_rounding(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_rounding(each) for each in value]
    return pytest.approx(value, abs=1e-3) if isinstance(value, float) else value


@pytest.mark.parametrize("name", sorted(ASKED))
def test_an_answer_has_plain_vllms_fields_and_values(endpoint: str, name: str) -> None:
    path, body = ASKED[name]
    ours, plain = post(endpoint, path, body), post(PLAIN, path, body)
    assert (ours.status_code, plain.status_code) == (200, 200), ours.text
    assert shape(ours.json()) == without_rounding(shape(plain.json()))


def test_an_image_is_answered(endpoint: str) -> None:
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": picture()}}]
    body = {**GREEDY, "messages": [{"role": "user", "content": content}]}
    ours, plain = (post(base, "/v1/chat/completions", body) for base in (endpoint, PLAIN))
    assert shape(ours.json()) == without_rounding(shape(plain.json()))


def events(answer: requests.Response) -> Iterator[str]:
    for line in answer.text.splitlines():
        if line:
            yield line.removeprefix("data: ")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {**GREEDY, "prompt": "The old harbour"}),
        ("/v1/chat/completions", {**GREEDY, "messages": CHAT}),
    ],
    ids=["completion", "chat"],
)
def test_a_stream_has_plain_vllms_events(endpoint: str, path: str, body: dict[str, Any]) -> None:
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    ours, plain = post(endpoint, path, asked), post(PLAIN, path, asked)
    assert ours.headers["Content-Type"] == plain.headers["Content-Type"]
    mine, theirs = list(events(ours)), list(events(plain))
    assert mine[-1] == theirs[-1] == "[DONE]"

    def text(chunks: list[str]) -> tuple[str, Any]:
        loaded = [json.loads(chunk) for chunk in chunks[:-1]]
        said = (choice.get("text", choice.get("delta", {}).get("content")) for c in loaded for choice in c["choices"])
        return "".join(each or "" for each in said), loaded[-1]["usage"]

    assert text(mine) == text(theirs)


WRONG: dict[str, tuple[str, dict[str, Any] | str]] = {
    "an unknown model": ("/v1/completions", {**GREEDY, "model": "nope", "prompt": "x"}),
    "a temperature out of range": ("/v1/completions", {**GREEDY, "prompt": "x", "temperature": -1}),
    "a prompt that is too long": ("/v1/completions", {**GREEDY, "prompt": "word " * 9000}),
    "no JSON": ("/v1/completions", "{"),
    "a path that is none": ("/v1/nope", GREEDY),
    "no messages": ("/v1/chat/completions", GREEDY),
    "tools that nobody reads": ("/v1/chat/completions", {**GREEDY, "messages": CHAT, "tools": TOOLS}),
    "a picture that cannot be fetched": ("/v1/chat/completions", {**GREEDY, "messages": NOWHERE}),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_a_client_does_wrong_is_answered_as_by_plain_vllm(endpoint: str, name: str) -> None:
    path, body = WRONG[name]
    ours, plain = post(endpoint, path, body), post(PLAIN, path, body)
    assert plain.status_code >= 400
    assert (ours.status_code, ours.text) == (plain.status_code, plain.text)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/score", "/v1/audio/transcriptions"])
def test_what_a_model_that_generates_cannot_do_is_refused_with_a_sentence(endpoint: str, path: str) -> None:
    ours = post(endpoint, path, {"model": MODEL, "input": "x"})
    assert (ours.status_code, ours.json()["code"]) == (400, 400)
    assert "generates" in ours.json()["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"model": MODEL, "prompt": "The old harbour"}),
        ("/detokenize", {"model": MODEL, "tokens": [5, 6]}),
        ("/v1/responses", {"model": MODEL, "input": "The old harbour", "temperature": 0, "max_output_tokens": 4}),
    ],
)
def test_what_else_vllm_answers_is_answered(endpoint: str, path: str, body: dict[str, Any]) -> None:
    ours, plain = post(endpoint, path, body), post(PLAIN, path, body)
    assert ours.status_code == plain.status_code == 200, ours.text
    fields = set(plain.json())
    assert set(ours.json()) == fields
    assert ours.json().get("tokens") == plain.json().get("tokens")


def test_ids_are_of_vllms_form_whatever_a_client_calls_its_request(endpoint: str) -> None:
    headers = {"X-Request-Id": "mine", "Content-Type": "application/json"}
    body = json.dumps({**GREEDY, "prompt": "x"})
    answers = [requests.post(f"{endpoint}/v1/completions", data=body, headers=headers, timeout=300) for _ in range(2)]
    ids = [str(answer.json()["id"]) for answer in answers]
    assert len(set(ids)) == 2
    assert all(len(each) == len("cmpl-") + 32 for each in ids), ids


def test_models_are_listed_as_by_plain_vllm(endpoint: str) -> None:
    ours, plain = (requests.get(f"{base}/v1/models", timeout=60).json()["data"] for base in (endpoint, PLAIN))
    fields = ("id", "object", "owned_by", "root", "max_model_len")
    assert [[each[name] for name in fields] for each in ours] == [[each[name] for name in fields] for each in plain]


@retry(retry=retry_if_exception_type(AssertionError), stop=stop_after_delay(60), wait=wait_fixed(0.5), reraise=True)
def wait_until_decode_runs(count: int) -> None:
    if not count:
        # The gauge stands still while nothing is computed.
        assert post(DECODE, "/v1/completions", {**GREEDY, "prompt": "tick", "max_tokens": 1}).status_code == 200
    families = text_string_to_metric_families(requests.get(f"{DECODE}/metrics", timeout=60).text)
    running = sum(
        each.value for family in families if family.name == "vllm:num_requests_running" for each in family.samples
    )
    assert running == count


def test_a_request_whose_client_leaves_is_cancelled_in_decode(endpoint: str) -> None:
    body = {**GREEDY, "prompt": "The old harbour", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with requests.Session() as session:
        answer = session.post(f"{endpoint}/v1/completions", json=body, stream=True, timeout=60)
        next(answer.iter_lines())
        wait_until_decode_runs(1)
    wait_until_decode_runs(0)
