"""One prefill and one decode of the patched vllm-ascend, served: API servers, endpoint, a DataSystem worker each."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_npu import mutations
from tests.emulated_npu.conftest import ASCEND
from tests.emulated_npu.serving import BLOCK, SETTINGS, Stack, fronted, serving
from tests.integration.engines import rig
from tests.integration.engines.test_leaving_clients import leave
from tests.integration.engines.test_load_faults import (
    DEADLINE_S,
    delete_all,
    kill_the_owner,
    kill_the_worker,
    mended,
    put,
    stored,
)
from tests.integration.engines.test_load_faults import Scene as Fault
from workshop import datasystem
from workshop.datasystem import Daemon
from yrpd.deploying.verifying.client import ask_streaming
from yrpd.deploying.verifying.questions import Question, picture_questions
from yrpd.serving.command_lines import KvTransfer

pytestmark = pytest.mark.emulated
MEMORY_MB = 128
TEXT = (1, BLOCK, BLOCK + 1, 5 * BLOCK + 7)
#: Options of ``vllm serve`` by model; one with each scheduler.
MODELS = {
    "qwen2": {},
    "qwen2_5_vl": {
        "limit-mm-per-prompt": json.dumps({"image": 1, "video": 0}), "additional-config": json.dumps(ASCEND),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Everything that runs.

    Attributes:
        model: Its folder's name.
        stack: With the connector.
        plain: The same without it: one engine is P and D.
        near: Decode's DataSystem worker.
        far: Prefill's.
        etcd: Their directory.
        home: Has a folder for each engine.
    """

    model: str
    stack: Stack
    plain: rig.Reference
    near: Daemon
    far: Daemon
    etcd: Daemon
    home: Path

    @contextmanager
    def broken(self, name: str) -> Iterator[None]:
        """Break the connector of prefill and of decode, as a release with this mistake would be."""
        files = [self.home / role / "break" for role in ("prefill", "decode")]
        for file in files:
            file.write_text(name)
        try:
            yield
        finally:
            for file in files:
                file.unlink()

    def questions(self) -> list[Question]:
        """Return what to ask."""
        pictures = [] if self.model == "qwen2" else list(picture_questions().values())
        return [*(rig.prompt(f"served {tokens}", tokens) for tokens in TEXT), *pictures]


# The image model is asked about text too; the text model's own stack is the long form's.
SERVED = list(MODELS) if rig.FULL else ["qwen2_5_vl"]


@pytest.fixture(scope="module", params=SERVED)
def scene(request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Both stacks of one model, their engines started side by side."""
    name = str(request.param)
    home = tmp_path_factory.mktemp(name)
    with ExitStack() as stack:
        store = stack.enter_context(datasystem.etcd(home))
        workers = {}
        for role in ("prefill", "decode"):
            folder = home / f"worker-{role}"
            folder.mkdir()
            workers[role] = stack.enter_context(
                datasystem.worker(folder, store.address, MEMORY_MB, ["node_timeout_s=5"])
            )

        doors = datasystem.free_ports(2)

        def start(role: str) -> rig.Engine:
            roles = {"prefill": "kv_producer", "decode": "kv_consumer"}
            transfer = None
            if role in roles:
                transfer = KvTransfer(
                    roles[role], workers[role].address, "served", "vllm", by_module=False,
                    settings=tuple(SETTINGS.items()),
                )  # fmt: skip
            started = serving(
                home / role, models / name, MODELS[name], transfer, gated=role == "decode", for_decode=doors[0]
            )
            return stack.enter_context(started)

        roles = ("prefill", "decode", "plain")
        with ThreadPoolExecutor(len(roles)) as pool:
            engines = dict(zip(roles, pool.map(start, roles), strict=True))
        served = stack.enter_context(fronted(home / "prefill", engines["prefill"], engines["decode"], doors[0]))
        without = stack.enter_context(fronted(home / "plain", engines["plain"], engines["plain"], doors[1]))
        yield Scene(name, served, rig.Reference(without.endpoint), workers["decode"], workers["prefill"], store, home)


def change_the_form(scene: Fault) -> None:
    """Let an object say that it has no parts. One that is cut off behind its table the client reads as whole."""
    (value,) = stored(scene.near, scene.keys[3:4])
    put(scene.near, {scene.keys[3]: bytes(8) + value[8:]})


def test_answers_are_those_of_the_stack_without_the_connector_and_come_from_prefills_blocks(scene: Scene) -> None:
    stack, salt = scene.stack, uuid.uuid4().hex
    questions = scene.questions()
    scene.plain.prepare(questions)
    for question in questions:
        before, saved = stack.decode.counters(), stack.prefill.counters()["saved_blocks"]
        answer = stack.endpoint.ask(question, salt)
        scene.plain.check(question, answer)
        after = stack.decode.counters()
        blocks = (answer.prompt_tokens - 1) // BLOCK
        assert after["loaded_blocks"] - before["loaded_blocks"] == blocks, question.name
        assert after["matched_tokens"] - before["matched_tokens"] == blocks * BLOCK, question.name
        assert stack.prefill.counters()["saved_blocks"] - saved >= blocks, question.name
        assert after["saved_blocks"] == 0, "decode saves nothing"


@pytest.mark.parametrize("mistake", [mistake.__name__ for mistake in mutations.WRONG])
def test_a_broken_connector_fails_this_comparison(scene: Scene, mistake: str) -> None:
    """The one of the test above. Each mistake has a prompt of its own, so that no block has these bytes by chance."""
    question, decode = rig.prompt(f"broken by {mistake}", 5 * BLOCK + 7), scene.stack.decode
    scene.plain.prepare([question])
    before = decode.counters()["loaded_blocks"]
    with scene.broken(mistake):
        answer = scene.stack.endpoint.ask(question, uuid.uuid4().hex)
    assert decode.counters()["loaded_blocks"] - before == 5, "the broken blocks were loaded"
    with pytest.raises(AssertionError, match=question.name):
        scene.plain.check(question, answer)
    scene.plain.check(question, scene.stack.endpoint.ask(question, uuid.uuid4().hex))


def test_a_stream_through_the_endpoint_is_the_same_answer(scene: Scene) -> None:
    question = scene.questions()[-1]
    answer, _, chunks = ask_streaming(scene.stack.endpoint.url, rig.NAME, question, uuid.uuid4().hex)
    scene.plain.check(question, answer)
    assert chunks > 1


@pytest.mark.parametrize(
    "fault", [delete_all, change_the_form, kill_the_worker, kill_the_owner], ids=lambda fault: fault.__name__
)
def test_a_fault_between_decodes_match_and_its_load_costs_no_answer(
    scene: Scene, fault: Callable[[Fault], None]
) -> None:
    decode, endpoint = scene.stack.decode, scene.stack.endpoint
    assert decode.gate is not None
    question, begun = scene.questions()[-1], threading.Event()
    scene.plain.prepare([question])
    before = decode.counters()

    def act(message: dict[str, Any]) -> None:
        if message["moment"] == "load" and not begun.is_set():
            begun.set()
            fault(Fault(scene.near, scene.far, scene.etcd, message["keys"]))

    with mended(scene.near, scene.far), decode.gate.watched(act), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(endpoint.ask, question, uuid.uuid4().hex).result(timeout=DEADLINE_S)
        assert begun.is_set(), "nothing was about to be loaded"
        scene.plain.check(question, answer)
        assert decode.failures(), "the load did not fail"
        assert decode.counters()["recomputed_requests"] == before["recomputed_requests"] + 1

    def loads_again() -> None:
        loaded = decode.counters()["loaded_blocks"]
        scene.plain.check(question, endpoint.ask(question, uuid.uuid4().hex))
        assert decode.counters()["loaded_blocks"] > loaded, "nothing is loaded"

    rig.eventually(loads_again)


def test_a_client_that_leaves_during_decodes_load_costs_no_later_one(scene: Scene) -> None:
    decode, question, salt = scene.stack.decode, rig.prompt("left during its load", 5 * BLOCK + 7), uuid.uuid4().hex
    scene.plain.check(question, scene.stack.endpoint.ask(question, salt))
    decode.forget()
    assert leave(decode, question, salt, "load", "drained", named=False), "the load had ended"
    loaded = decode.counters()["loaded_blocks"]
    scene.plain.check(question, decode.ask(question, salt))
    assert decode.counters()["loaded_blocks"] - loaded == 5
