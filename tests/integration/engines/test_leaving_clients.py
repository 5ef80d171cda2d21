"""Clients that disconnect while their blocks are saved leave no block behind."""

from __future__ import annotations

import http.client
import json
import queue
import threading
import uuid
from typing import Any

import pytest
from yrpd.deploying.verification.questions import Question

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from tests.integration.engines.rig import BLOCK, FULL, MAX_LEN, NAME, Engine, Reference, prompt, wait_until_idle  # noqa: E402

WHILE_SAVING = 1000 if FULL else 100
WAIT_S = 120


class Moment:
    """Holds a transfer of the engine at the gate.

    Args:
        begin: ``load`` or ``save``.
        end: What lets it go on: the request has ``finished``, or its load was called off (``drained``).
        skip: So many transfers are let through before.
    """

    def __init__(self, begin: str, end: str, skip: int = 0) -> None:
        self._begin, self._end, self._skip = begin, end, skip
        self._ended = threading.Event()
        self.reached: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.draining: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def __call__(self, message: dict[str, Any]) -> None:
        """Take an announcement."""
        moment = message["moment"]
        if moment == self._begin and self._skip:
            self._skip -= 1
        elif moment == self._begin:
            self.reached.put(None)
            self._ended.wait(WAIT_S)
        if moment == self._end:
            self._ended.set()
        if moment == "finished":
            self.draining.put(message["draining"])


def leave(engine: Engine, question: Question, salt: str, moment: Moment) -> bool:
    """Ask, disconnect at the moment, and return whether the blocks were still being written to by then."""
    assert engine.gate is not None
    host, port = engine.daemon.address.rsplit(":", 1)
    body = {**question.body, "model": NAME, "stream": True, "cache_salt": salt}
    with engine.gate.watched(moment):
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
        connection.request("POST", question.path, json.dumps(body), {"Content-Type": "application/json"})
        moment.reached.get(timeout=WAIT_S)
        connection.close()
        return moment.draining.get(timeout=WAIT_S)


def test_clients_that_leave_during_a_save_leak_nothing(engine: Engine, plain: Reference) -> None:
    question = prompt("left during a save", 3 * BLOCK + 1, answer=1500)
    for _ in range(WHILE_SAVING):
        # The first save is the prompt's, and the step waits for it; the second is of what was generated.
        leave(engine, question, uuid.uuid4().hex, Moment("save", "finished", skip=1))
    assert_nothing_is_lost(engine, plain)


def assert_nothing_is_lost(engine: Engine, plain: Reference) -> None:
    """All blocks are free, and a prompt that needs nearly all of them is answered."""
    wait_until_idle(engine)
    greatest = prompt("greatest", MAX_LEN - 8)
    plain.check(greatest, engine.ask(greatest, uuid.uuid4().hex))
    wait_until_idle(engine)
