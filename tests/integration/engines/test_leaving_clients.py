"""Clients that disconnect while their blocks are loaded or saved leave no block behind."""

from __future__ import annotations

import http.client
import json
import queue
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from yrpd.deploying.verifying.questions import Question

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from vllm_ascend.distributed.yuanrong.config import ConnectorConfig  # noqa: E402

from tests.integration.engines.rig import (  # noqa: E402
    BLOCK,
    FULL,
    MAX_LEN,
    NAME,
    Engine,
    Reference,
    eventually,
    prompt,
    wait_until_idle,
)

LEAVING = 1000 if FULL else 30
LOAD_THREADS = ConnectorConfig.load_threads
WAIT_S = 120


class Moment:
    """Holds a transfer of one request at the gate.

    Args:
        request: The request's name; what others do is let through. Empty is every request.
        begin: ``load`` or ``save``.
        end: What lets it go on: the request has ``finished``, or its load was called off (``drained``).
        skip: So many transfers are let through before.
    """

    def __init__(self, request: str, begin: str, end: str, skip: int = 0) -> None:
        self._request, self._begin, self._end, self._skip = request, begin, end, skip
        self._ended = threading.Event()
        self.reached: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.draining: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def wait(self) -> None:
        """Wait for what lets the transfer go on."""
        assert self._ended.wait(WAIT_S)

    def __call__(self, message: dict[str, Any]) -> None:
        """Take an announcement."""
        moment = message["moment"]
        if self._request not in (message["request"] or ""):  # vLLM puts something before and after a name
            return
        if moment == self._begin and self._skip:
            self._skip -= 1
        elif moment == self._begin:
            self.reached.put(None)
            self._ended.wait(WAIT_S)
        if moment == self._end:
            self._ended.set()
        if moment == "finished":
            self.draining.put(message["draining"])


def ask_for_a_stream(engine: Engine, question: Question, salt: str, name: str) -> http.client.HTTPConnection:
    """Ask under a name of one's own; the connection can be closed before there is an answer."""
    headers = {"Content-Type": "application/json", "X-Request-Id": name}
    host, port = engine.daemon.address.rsplit(":", 1)
    body = {**question.body, "model": NAME, "stream": True, "cache_salt": salt}
    connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
    connection.request("POST", question.path, json.dumps(body), headers)
    return connection


def leave(
    engine: Engine, question: Question, salt: str, begin: str, end: str, skip: int = 0, *, named: bool = True
) -> bool:
    """Ask, disconnect at the moment, and return whether the blocks were still being written to by then.

    Args:
        engine: Who is asked, behind the gate.
        question: What is asked.
        salt: Under which salt.
        begin: See :class:`Moment`.
        end: As above.
        skip: As above.
        named: Whether the engine takes the client's name for the request's; the middleware of a served D gives another.
    """
    assert engine.gate is not None
    name = uuid.uuid4().hex
    moment = Moment(name if named else "", begin, end, skip)
    with engine.gate.watched(moment):
        connection = ask_for_a_stream(engine, question, salt, name)
        moment.reached.get(timeout=WAIT_S)
        connection.close()
        draining = moment.draining.get(timeout=WAIT_S)
        moment.wait()
        return draining


def test_clients_that_leave_during_a_save_leak_nothing(engine: Engine, plain: Reference) -> None:
    question = prompt("left during a save", 3 * BLOCK + 1, answer=1500)
    for _ in range(LEAVING):
        # The first save is the prompt's, and the step waits for it; the second is of what was generated.
        leave(engine, question, uuid.uuid4().hex, "save", "finished", skip=1)
    assert_nothing_is_lost(engine, plain)


def test_clients_that_leave_during_a_load_leak_nothing(engine: Engine, plain: Reference) -> None:
    question, salt = prompt("left during a load", 8 * BLOCK + 1), uuid.uuid4().hex
    plain.check(question, engine.ask(question, salt))
    engine.forget()
    for _ in range(LEAVING):
        # The load goes on only when the engine has taken its blocks back.
        assert leave(engine, question, salt, "load", "drained"), "the load had ended"
    before = engine.counters()["loaded_blocks"]
    plain.check(question, engine.ask(question, salt))
    assert engine.counters()["loaded_blocks"] - before == 8, "a load that was called off costs no later one"
    assert_nothing_is_lost(engine, plain)


def test_a_client_that_leaves_before_its_load_began_leaks_nothing(engine: Engine, plain: Reference) -> None:
    """All threads that load are busy; its blocks are taken back before any of them has come to its load."""
    assert engine.gate is not None
    question, salt = prompt("left before its load", 8 * BLOCK + 1), uuid.uuid4().hex
    plain.check(question, engine.ask(question, salt))
    engine.forget()
    matched, name = engine.counters()["matched_tokens"], uuid.uuid4().hex
    busy, release, gone = threading.Semaphore(0), threading.Event(), threading.Event()

    def act(message: dict[str, Any]) -> None:
        if message["moment"] == "load":
            busy.release()
            release.wait(WAIT_S)
        elif message["moment"] == "drained" and name in message["request"]:
            gone.set()

    with engine.gate.watched(act), ThreadPoolExecutor(LOAD_THREADS) as pool:
        try:
            others = [pool.submit(engine.ask, question, salt) for _ in range(LOAD_THREADS)]
            for _ in others:
                assert busy.acquire(timeout=WAIT_S)
            connection = ask_for_a_stream(engine, question, salt, name)
            eventually(lambda: assert_matched(engine, matched + (LOAD_THREADS + 1) * 8 * BLOCK))
            connection.close()
            assert gone.wait(WAIT_S)
            assert not busy.acquire(blocking=False), "its load had begun"
        finally:
            release.set()
        for other in others:
            plain.check(question, other.result(timeout=WAIT_S))
    assert_nothing_is_lost(engine, plain)


def assert_matched(engine: Engine, tokens: float) -> None:
    assert engine.counters()["matched_tokens"] == tokens


def assert_nothing_is_lost(engine: Engine, plain: Reference) -> None:
    """All blocks are free, and a prompt that needs nearly all of them is answered."""
    wait_until_idle(engine)
    greatest = prompt("greatest", MAX_LEN - 8)
    plain.check(greatest, engine.ask(greatest, uuid.uuid4().hex))
    wait_until_idle(engine)
