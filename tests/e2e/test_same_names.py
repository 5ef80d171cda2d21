"""Names that stay while what they stand for changes: weights in place, an adapter's files, a request's id.

Every answer is held against one that was computed under a salt of its own, so from no stored block.
"""

from __future__ import annotations

import http.client
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree
from typing import Any

import docker
import numpy as np
import pytest
import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.e2e.inventories import lab_inventory
from tests.e2e.running import ROOT, Run, tail
from tests.integration.sshd import sshd
from workshop.datasystem import free_ports
from yrpd.deploying.status.counters import read_counters
from yrpd.deploying.verifying.answers import Answer, compare
from yrpd.deploying.verifying.client import AskError, ask, ask_plainly, get_text
from yrpd.deploying.verifying.questions import COMPLETIONS, Question, prose

PREFILL, DECODE = "http://10.77.0.1:8100", "http://10.77.0.2:8200"
HOSTS = {"host1": "yrpd-prefill-0", "host2": "yrpd-decode-0"}
SERVED = "same-name"
# Twice what verification allows: there are two rounded answers here, and neither is the reference.
TOLERANCE = 3e-4
RANK = 8
RETURNS = 40


def question(pieces: int) -> Question:
    """Return a prompt that begins like no other, so that no engine has its blocks in its own prefix cache."""
    text = f"{uuid.uuid4().hex}\n" + "".join(prose(pieces))
    body = {"prompt": text, "max_tokens": 8, "temperature": 0, "logprobs": 5}
    return Question(f"{pieces} pieces", COMPLETIONS, {**body, "return_tokens_as_token_ids": True})


def socket_of(host: str) -> str:
    return f"unix:///run/yrpd-lab/{host}/docker.sock"


def loaded() -> float:
    return read_counters(get_text(DECODE, "/metrics"))["loaded_blocks"]


def fresh(asked: Question, model: str = SERVED) -> Answer:
    return ask(DECODE, model, asked, uuid.uuid4().hex)


def are_equal(first: Answer, second: Answer) -> bool:
    return compare(first, second, TOLERANCE, ties=False).equal


@retry(
    retry=retry_if_exception_type((AskError, AssertionError)), stop=stop_after_delay(300), wait=wait_fixed(0.5),
    reraise=True,
)  # fmt: skip
def both_answer() -> None:
    for url in (PREFILL, DECODE):
        get_text(url, "/health")


def change(file: Path) -> None:
    """Replace a file of weights by one of the same length whose numbers have other signs, as a retrained one would."""
    data = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    for name, tensor in header.items():
        if name != "__metadata__" and "o_proj" in name:
            start, end = (begin + offset for offset in tensor["data_offsets"])
            width = {"F32": 4, "BF16": 2, "F16": 2}[tensor["dtype"]]
            for at in range(start + width - 1, end, width):
                data[at] ^= 0x80
    other = file.with_name(f".{file.name}.new")
    other.write_bytes(data)
    os.replace(other, file)


def write_adapter(folder: Path, seed: int) -> None:
    """Write a LoRA adapter of the queries, in the safetensors format: a header's length, the header, the numbers."""
    configuration = json.loads((ROOT / "build/models/qwen2/config.json").read_text(encoding="utf-8"))
    size = int(configuration["hidden_size"])
    rng = np.random.default_rng(seed)
    header: dict[str, Any] = {}
    content = b""
    for layer in range(int(configuration["num_hidden_layers"])):
        for part, shape in (("A", (RANK, size)), ("B", (size, RANK))):
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight"
            numbers = rng.standard_normal(shape).astype("<f4").tobytes()
            header[name] = {
                "dtype": "F32", "shape": list(shape), "data_offsets": [len(content), len(content) + len(numbers)],
            }  # fmt: skip
            content += numbers
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content)
    description = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "bias": "none", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(description), encoding="utf-8")


@pytest.fixture(scope="module")
def model(quickstart: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of these tests' own."""
    assert quickstart.code == 0, tail(quickstart)
    folder = tmp_path_factory.mktemp("models") / "model"
    copytree(ROOT / "build" / "models" / "qwen2", folder)
    write_adapter(folder / "adapters" / "one", 1)
    return folder


@pytest.fixture(scope="module")
def deployed(
    model: Path, invoke: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., None]]:
    """Deploys that model; called again, as after ``rsync``, once more."""
    options = {"enable-lora": True, "max-lora-rank": RANK}
    tables: dict[str, dict[str, Any]] = {
        "model": {"path": str(model), "served_name": SERVED, "options": options},
        "containers": {"environment": {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}},
    }
    hosts = lab_inventory(tmp_path_factory.mktemp("hosts") / "hosts.toml", tables=tables)

    def deploy() -> None:
        run = invoke("deploy", "--hosts", str(hosts))
        assert run.code == 0, tail(run)

    before = invoke("deploy.clean")
    assert before.code == 0, tail(before)
    deploy()
    yield deploy
    invoke("deploy.clean", "--hosts", str(hosts))


def restart(engines: dict[str, str]) -> None:
    """``docker restart`` P and D."""
    for host, container in HOSTS.items():
        client = docker.DockerClient(base_url=engines[host])
        client.containers.get(container).restart(timeout=30)
        client.close()
    both_answer()


@pytest.mark.parametrize("way", ["docker restart", "docker restart through ssh", "invoke deploy"])
def test_no_block_of_the_old_weights_is_loaded_by_the_new(
    way: str, model: Path, deployed: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = question(18)
    ask(PREFILL, SERVED, asked)
    before = loaded()
    old = ask(DECODE, SERVED, asked)
    assert loaded() > before, "blocks must be loaded before the change"
    change(model / "model.safetensors")
    with ExitStack() as stack:
        engines = {host: socket_of(host) for host in HOSTS}
        if "ssh" in way:
            monkeypatch.setenv("HOME", str(tmp_path / "home"))
            monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
            for (host, engine), port in zip(list(engines.items()), free_ports(2), strict=True):
                server = sshd(tmp_path / host, tmp_path / "home", engine, port)
                engines[host] = stack.enter_context(server).engine
        if way == "invoke deploy":
            deployed()
        else:
            restart(engines)
    before = loaded()
    first = ask(DECODE, SERVED, asked)
    right = fresh(asked)
    assert loaded() == before, "a block of the old weights was loaded"
    assert not are_equal(old, right), "the weights must answer otherwise"
    assert are_equal(first, right)
    other = question(17)
    ask(PREFILL, SERVED, other)
    before = loaded()
    assert are_equal(ask(DECODE, SERVED, other), fresh(other))
    assert loaded() > before, "blocks of the new weights are shared"


def test_no_block_of_an_adapter_is_loaded_after_it_was_trained_again(
    model: Path, deployed: Callable[..., None]
) -> None:
    asked = question(15)
    served = {"lora_name": "tuned", "lora_path": adapter_path(model)}
    for url in (PREFILL, DECODE):
        load_adapter(url, served)
    ask(PREFILL, "tuned", asked)
    before = loaded()
    old = ask(DECODE, "tuned", asked)
    assert loaded() > before, "blocks must be loaded before the change"
    write_adapter(model / "adapters" / "one", 2)
    for url in (PREFILL, DECODE):
        requests.post(f"{url}/v1/unload_lora_adapter", json={"lora_name": "tuned"}, timeout=60).raise_for_status()
        load_adapter(url, served)
    before = loaded()
    first, right = ask(DECODE, "tuned", asked), fresh(asked, "tuned")
    assert loaded() == before, "a block of the old adapter was loaded"
    assert not are_equal(old, right), "the adapters must answer otherwise"
    assert are_equal(first, right)
    other = question(16)
    ask(PREFILL, "tuned", other)
    ask(DECODE, "tuned", other)
    assert loaded() > before, "blocks of the new adapter are shared"


def adapter_path(model: Path) -> str:
    """Return where the containers see the adapter."""
    client = docker.DockerClient(base_url=socket_of("host2"))
    mounts = client.containers.get(HOSTS["host2"]).attrs["Mounts"]
    client.close()
    (target,) = (each["Destination"] for each in mounts if each["Source"] == str(model))
    return f"{target}/adapters/one"


def load_adapter(url: str, served: dict[str, str]) -> None:
    answer = requests.post(f"{url}/v1/load_lora_adapter", json=served, timeout=60)
    assert answer.ok, answer.text


def test_an_id_that_comes_back_while_its_load_is_drained_answers_itself_and_nobody_else(
    deployed: Callable[..., None],
) -> None:
    """A client leaves D during its load and comes back at once, with the same id and another prompt or the same."""
    left, others = question(18), [question(pieces) for pieces in (18, 12, 3)]
    right = {each.name: fresh(each) for each in others}
    for number in range(RETURNS):
        salt, name = f"back {uuid.uuid4().hex}", f"id-{number}"
        for each in others:
            ask(PREFILL, SERVED, each, salt)
        leave(left, salt, name)
        again = others[number % len(others)]
        headers = {"X-Request-Id": name}
        body = {**again.body, "model": SERVED, "cache_salt": salt}
        answer = requests.post(f"{DECODE}{again.path}", json=body, headers=headers, timeout=300)
        assert answer.ok, answer.text
        for each in (*others, again):
            assert are_equal(ask(DECODE, SERVED, each, salt), right[each.name]), (number, each.name)
    assert ask_plainly(DECODE, COMPLETIONS, {"model": SERVED, "prompt": "alive", "max_tokens": 1})["choices"]


def leave(asked: Question, salt: str, name: str) -> None:
    """Ask D, and disconnect without waiting for anything."""
    host, port = DECODE.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    body = {**asked.body, "model": SERVED, "stream": True, "cache_salt": salt}
    headers = {"Content-Type": "application/json", "X-Request-Id": name}
    connection.request("POST", asked.path, json.dumps(body), headers)
    connection.close()
