"""A new image with the same kernels and the same DataSystem: what is cached stays, and old P feed new D."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
import tomlkit

from tests.e2e.inventories import lab_inventory
from tests.e2e.running import ROOT, Run, tail
from yrpd.deploying.status.counters import read_counters
from yrpd.deploying.verifying.client import ask, get_text
from yrpd.deploying.verifying.questions import COMPLETIONS, Question, prose

PREFILL, DECODE = "http://10.77.0.1:8100", "http://10.77.0.2:8200"
HOSTS = ("host1", "host2")
RECORD = ROOT / "dist" / "image-cpu.json"
NAME = "yrpd-newer:1"
TOLD = {"logprobs": 5, "return_tokens_as_token_ids": True}


def question() -> Question:
    """Return a prompt that begins like no other."""
    text = f"{uuid.uuid4().hex}\n" + "".join(prose(16))
    return Question("long", COMPLETIONS, {"prompt": text, "max_tokens": 4, "temperature": 0, **TOLD})


def loaded() -> float:
    return read_counters(get_text(DECODE, "/metrics"))["loaded_blocks"]


def client(host: str) -> docker.DockerClient:
    return docker.DockerClient(base_url=f"unix:///run/yrpd-lab/{host}/docker.sock", timeout=600)


def containers() -> dict[str, tuple[str, str]]:
    """Return each container's id and image."""
    return {
        f"{host}/{each.name}": (str(each.id), str(each.attrs["Image"]))
        for host in HOSTS
        for each in client(host).containers.list(filters={"label": "io.yuanrong.yrpd.deployment=yrpd"})
    }


@pytest.fixture
def newer(quickstart: Run) -> Iterator[None]:
    """Give both hosts an image that differs in a label, and record it as this checkout's."""
    assert quickstart.code == 0, tail(quickstart)
    text = RECORD.read_text(encoding="utf-8")
    old = json.loads(text)
    first, second = map(client, HOSTS)
    made = first.containers.create(old["id"], ["nothing"])
    image = made.commit("yrpd-newer", "1", changes='LABEL org.opencontainers.image.revision="another"')
    made.remove()
    second.images.load(b"".join(first.images.get(NAME).save(named=True)))
    RECORD.write_text(json.dumps({**old, "id": image.id, "image": NAME}), encoding="utf-8")
    yield
    RECORD.write_text(text, encoding="utf-8")


def test_what_is_cached_outlives_a_new_image_and_old_p_feed_new_d(
    newer: None, quickstart: Run, invoke: Callable[..., Run], tmp_path: Path
) -> None:
    model, before, asked = "qwen2_5_vl", containers(), question()
    ask(PREFILL, model, asked)

    broken = lab_inventory(tmp_path / "broken.toml")
    inventory = tomlkit.parse(broken.read_text(encoding="utf-8"))
    inventory["prefill"][0]["environment"] = {"VLLM_LOGGING_LEVEL": "NO SUCH LEVEL"}
    broken.write_text(tomlkit.dumps(inventory), encoding="utf-8")
    half = invoke("deploy", "--hosts", str(broken))
    assert half.code == 7, tail(half)
    now = containers()
    assert [name for name in before if before[name] != now[name]] == ["host2/yrpd-decode-0"]
    count = loaded()
    ask(DECODE, model, asked)
    assert loaded() > count, "a D of the new image finds what was cached before it"
    other = question()
    ask(PREFILL, model, other)
    count = loaded()
    ask(DECODE, model, other)
    assert loaded() > count, "a P of the old image feeds a D of the new one"

    whole = invoke("deploy")
    assert whole.code == 0, tail(whole)
    now = containers()
    kept = {name.rpartition("/")[2] for name in before if before[name] == now[name]}
    assert kept == {"yrpd-etcd", "yrpd-worker"}
    assert json.loads(invoke("deploy.status", "--json").out)["healthy"]
    back = invoke("deploy.rollback")
    assert back.code == 0, tail(back)
    assert {name for name, each in containers().items() if each[1] != before[name][1]} == set()
