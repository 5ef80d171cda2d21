"""Transfers that do not end by their deadline, 20 s in these engines: the long form, and counted for coverage."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")
pytest.importorskip("yr.datasystem.kv_client")

from tests.integration.engines.rig import BLOCK, MAX_LEN, Engine, Reference, eventually, prompt  # noqa: E402
from tests.integration.engines.test_load_faults import assert_loads_again  # noqa: E402


@pytest.mark.parametrize("moment", ["save", "load"])
def test_a_transfer_that_is_held_up_is_not_waited_for_beyond_its_deadline(
    moment: str, engines: dict[str, Engine], plain: Reference
) -> None:
    engine = engines["vllm"]
    assert engine.gate is not None
    question, greatest = prompt(f"held up, {moment}", 8 * BLOCK + 1), prompt("takes its blocks", MAX_LEN - 8)
    plain.prepare([question, greatest])
    salt, held, release = uuid.uuid4().hex, threading.Event(), threading.Event()
    if moment == "load":
        plain.check(question, engine.ask(question, salt))
        engine.forget()

    def act(message: dict[str, Any]) -> None:
        if message["moment"] == moment and not held.is_set():
            held.set()
            release.wait(600)

    try:
        with engine.gate.watched(act):
            plain.check(question, engine.ask(question, salt))
            assert held.is_set(), "nothing was held up"
            engine.forget()
            # This one needs nearly all blocks, those of the transfer among them.
            plain.check(greatest, engine.ask(greatest, uuid.uuid4().hex))
            cause = {"save": "late", "load": "timeout"}[moment]
            assert engine.value(f"yuanrong_{moment}_failures_total", cause=cause) > 0
    finally:
        release.set()
    if moment == "save":  # its blocks were taken: it may not read them any more
        eventually(lambda: revoked(engine))
    eventually(lambda: assert_loads_again(engine, plain))


def revoked(engine: Engine) -> None:
    assert engine.value("yuanrong_save_failures_total", cause="revoked") > 0
