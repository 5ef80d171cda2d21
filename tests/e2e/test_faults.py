"""Faults under the running deployment: every answer stays right, nothing is lost, and loading comes back.

The deployment is the quickstart's. The answers that count as right are those that it gave while all was well, which
``deploy.verify`` has compared with plain vLLM's.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import docker
import pytest
import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential
from yrpd.deploying.verification.answers import Answer, compare
from yrpd.deploying.verification.client import ask
from yrpd.deploying.verification.counters import read_counters
from yrpd.deploying.verification.questions import COMPLETIONS, Question, prose

from tests.e2e.running import FULL, Run, tail

MODEL = "qwen2_5_vl"
PREFILL = "http://10.77.0.1:8100"
DECODE = "http://10.77.0.2:8200"
# Twice what verification allows: there are two rounded answers here, and neither is the reference.
TOLERANCE = 3e-4
ABORTS = 200 if FULL else 60


def question(number: int) -> Question:
    """A prompt of some 600 to 900 tokens, another one for every number."""
    text = "".join(prose(200)[number * 20 : number * 20 + 16])
    body = {"prompt": text, "max_tokens": 8, "temperature": 0, "logprobs": 5, "return_tokens_as_token_ids": True}
    return Question(f"prompt {number}", COMPLETIONS, body)


def salt() -> str:
    return uuid.uuid4().hex


def loaded_blocks() -> float:
    return read_counters(requests.get(f"{DECODE}/metrics", timeout=60).text)["loaded_blocks"]


@pytest.fixture(scope="module")
def endpoint(report: dict[str, Any]) -> str:
    return str(report["endpoint"])


@pytest.fixture(scope="module")
def right(endpoint: str) -> dict[int, Answer]:
    """What the healthy deployment answers."""
    answers = {number: ask(endpoint, MODEL, question(number), salt()) for number in range(4)}
    assert len({answer.tokens for answer in answers.values()}) > 1, "the prompts are not told apart"
    return answers


def assert_all_right(endpoint: str, right: dict[int, Answer]) -> None:
    """Ask everything under fresh salts, one after the other and then at once."""
    numbers = [*right, *right]
    answers = [ask(endpoint, MODEL, question(number), salt()) for number in right]
    with ThreadPoolExecutor(len(right)) as pool:
        answers += pool.map(lambda number: ask(endpoint, MODEL, question(number), salt()), right)
    for number, answer in zip(numbers, answers, strict=True):
        found = compare(answer, right[number], TOLERANCE, ties=False)
        assert found.equal, found.problem


@retry(
    retry=retry_if_exception_type(AssertionError),
    stop=stop_after_delay(90),
    wait=wait_exponential(multiplier=0.5, max=5),
    reraise=True,
)
def wait_until_blocks_are_loaded_again(endpoint: str) -> None:
    before = loaded_blocks()
    ask(endpoint, MODEL, question(5), salt())
    assert loaded_blocks() > before, "decode does not load"


def engine(host: str) -> docker.DockerClient:
    return docker.DockerClient(base_url=f"unix:///run/yrpd-lab/{host}/docker.sock")


@contextmanager
def paused(host: str, name: str) -> Iterator[None]:
    """Stop a container's processes without ending them: what they hold stays, what they owe does not come."""
    container = engine(host).containers.get(name)
    container.pause()
    try:
        yield
    finally:
        container.unpause()


@pytest.mark.parametrize(
    ("host", "name"),
    [("host2", "yrpd-worker"), ("host1", "yrpd-worker"), ("host1", "yrpd-etcd")],
    ids=["decode's worker", "prefill's worker", "etcd"],
)
def test_a_paused_part_costs_time_and_no_answer(endpoint: str, right: dict[int, Answer], host: str, name: str) -> None:
    with paused(host, name):
        assert_all_right(endpoint, right)
    wait_until_blocks_are_loaded_again(endpoint)


def test_a_killed_worker_costs_time_and_no_answer_and_deploy_brings_it_back(
    endpoint: str, right: dict[int, Answer], invoke: Callable[..., Run]
) -> None:
    engine("host2").containers.get("yrpd-worker").kill()
    assert_all_right(endpoint, right)
    status = invoke("deploy.status", "--json").document
    (worker,) = [each for each in status["containers"] if (each["host"], each["role"]) == ("host2", "worker")]
    assert worker["health"] != "healthy"
    healed = invoke("deploy", "--json")
    assert healed.code == 0, tail(healed)
    assert healed.document["state"] == "deployed"
    assert_all_right(endpoint, right)
    wait_until_blocks_are_loaded_again(endpoint)


def test_clients_that_leave_leak_no_block(endpoint: str, right: dict[int, Answer]) -> None:
    """Clients that go away while prefill saves, while decode loads, and while decode answers."""
    dice = random.Random(7)
    known = salt()
    ask(PREFILL, MODEL, question(6), known)

    def leave(number: int) -> None:
        base = (PREFILL, DECODE, endpoint)[number % 3]
        body = {**question(6).body, "model": MODEL, "max_tokens": 200, "stream": True}
        # Every other one finds its blocks and is left while it loads them.
        body["cache_salt"] = known + ("" if number % 2 else str(number))
        with requests.Session() as session:
            try:
                answer = session.post(
                    base + COMPLETIONS, json=body, stream=True, timeout=(10, dice.choice([0.01, 0.05, 0.2, 0.6]))
                )
                next(answer.iter_content(64), None)
            except requests.RequestException:
                return  # the client gave up, which is what this is about

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(ABORTS)))
    for base in (PREFILL, DECODE):
        wait_until_idle(base)
    assert_all_right(endpoint, right)
    for base in (PREFILL, DECODE):
        wait_until_idle(base)


@retry(
    retry=retry_if_exception_type(AssertionError),
    stop=stop_after_delay(120),
    wait=wait_exponential(multiplier=0.5, max=5),
    reraise=True,
)
def wait_until_idle(base: str) -> None:
    """Every KV block is free again and no request is left; a block that leaked would stay in use."""
    # The engine reports when it steps, so something short is asked first.
    ask(base, MODEL, Question("tick", COMPLETIONS, {**question(0).body, "prompt": "tick", "max_tokens": 1}))
    text = requests.get(f"{base}/metrics", timeout=60).text
    blocks = re.search(r'^vllm:cache_config_info\{.*num_gpu_blocks="(\d+)"', text, re.MULTILINE)
    assert blocks is not None
    # vLLM 0.10.0 counts the null block, which belongs to nobody, as used.
    allowed = {"vllm:kv_cache_usage_perc": 1 / int(blocks[1])}
    for name in ("vllm:kv_cache_usage_perc", "vllm:num_requests_running", "vllm:num_requests_waiting"):
        values = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name}{{")]
        assert values, name
        assert max(values) <= allowed.get(name, 0) * 1.001, f"{name} of {base} is {values}"
