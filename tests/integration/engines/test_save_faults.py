"""Faults before a lookup and during a save: they cost hits, and no answer."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest

from workshop.datasystem import Daemon

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")
pytest.importorskip("yr.datasystem.kv_client")

from tests.integration.engines.rig import Engine, Reference, eventually, prompt  # noqa: E402
from tests.integration.engines.test_load_faults import TOKENS, assert_loads_again, mended  # noqa: E402


def test_a_worker_that_died_while_nothing_was_asked_costs_no_answer(
    engine: Engine, near: Daemon, plain: Reference
) -> None:
    question, salt = prompt("before it died", TOKENS), uuid.uuid4().hex
    plain.check(question, engine.ask(question, salt))
    engine.forget()
    loaded = engine.counters()["loaded_blocks"]
    with mended(near):
        near.kill()
        plain.check(question, engine.ask(question, salt))
        assert engine.counters()["loaded_blocks"] == loaded
    eventually(lambda: assert_loads_again(engine, plain))


def test_a_worker_that_dies_during_a_save_costs_no_answer(engine: Engine, near: Daemon, plain: Reference) -> None:
    assert engine.gate is not None
    question, begun = prompt("as it died", TOKENS), threading.Event()
    plain.prepare([question])
    lost = engine.value("yuanrong_save_failures_total")

    def act(message: dict[str, Any]) -> None:
        if message["moment"] == "save" and not begun.is_set():
            begun.set()
            near.kill()

    with mended(near):
        with engine.gate.watched(act):
            plain.check(question, engine.ask(question, uuid.uuid4().hex))
        assert begun.is_set(), "nothing was about to be saved"
        assert engine.value("yuanrong_save_failures_total") > lost
    eventually(lambda: assert_loads_again(engine, plain))
