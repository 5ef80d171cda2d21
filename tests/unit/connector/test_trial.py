"""One block out and back before the first request: what does not travel is told of, and nothing is left behind."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import pytest
from yuanrong.layout import KVLayout
from yuanrong.transport.base import ERROR, FULL, TIMEOUT, UNAVAILABLE, Failures, Guard, Transfer
from yuanrong.trial import try_out

from tests.unit.connector.fakes import FakeTensor, MemoryTransport, read_block, write_block


@pytest.fixture
def layout() -> KVLayout:
    """Two layers of six blocks, each block with bytes of its own."""
    layout = KVLayout.from_caches({f"l.{i}": FakeTensor((2, 6, 12)) for i in range(2)})
    for block in range(6):
        write_block(layout, block, bytes((block * 40 + i) % 256 for i in range(layout.block_bytes)))
    return layout


def _contents(layout: KVLayout) -> list[bytes]:
    return [read_block(layout, block) for block in range(layout.num_blocks)]


@pytest.mark.parametrize("kind", ["host", "npu"])
def test_a_block_that_came_back_is_told_of_and_nothing_stays(
    layout: KVLayout, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, transport = _contents(layout), MemoryTransport(layout=layout)
    with caplog.at_level(logging.INFO, "vllm.yuanrong"):
        assert try_out(transport, kind, 10) is None
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "to the DataSystem and back" in record.getMessage()
    assert (transport.store, _contents(layout)) == ({}, before)


@pytest.mark.parametrize("call", ["put", "get"])
@pytest.mark.parametrize(("kind", "cause", "remedy"), [
    ("npu", ERROR, "Which DataSystem for which CANN"),
    ("npu", TIMEOUT, "npu-smi"),
    ("host", FULL, "larger pool"),
    ("host", ERROR, "the line above"),
])  # fmt: skip
def test_what_does_not_travel_is_a_warning_with_its_remedy(
    layout: KVLayout, caplog: pytest.LogCaptureFixture, call: str, kind: str, cause: str, remedy: str
) -> None:
    transport = MemoryTransport(layout=layout, fault=lambda operation, _: cause if operation == call else None)
    assert try_out(transport, kind, 10) == cause
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"KV blocks do not travel ({cause}, transport {kind})" in record.getMessage()
    assert remedy in record.getMessage()
    assert transport.store == {}


def test_other_blocks_are_not_touched_whatever_comes_back(layout: KVLayout) -> None:
    before = _contents(layout)
    try_out(
        MemoryTransport(layout=layout, fault=lambda operation, _: ERROR if operation == "get" else None), "host", 10
    )
    assert _contents(layout)[1:] == before[1:]


class _Unconnected(MemoryTransport):
    def fence(self) -> Callable[[], None] | None:
        return None


def test_a_transport_that_is_not_connected_has_said_so_itself(
    layout: KVLayout, caplog: pytest.LogCaptureFixture
) -> None:
    assert try_out(_Unconnected(layout=layout), "host", 10) == UNAVAILABLE
    assert caplog.records == []


class _Hanging(MemoryTransport):
    ended = threading.Event()

    def put(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        self.ended.wait(60)
        return super().put(keys, blocks, guard)


def test_a_call_that_hangs_holds_up_no_engine(layout: KVLayout, caplog: pytest.LogCaptureFixture) -> None:
    transport = _Hanging(layout=layout)
    try:
        assert try_out(transport, "npu", 0.05) == TIMEOUT
    finally:
        transport.ended.set()
    assert "KV blocks do not travel (timeout, transport npu)" in caplog.text


class _Broken(MemoryTransport):
    def put(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        raise ValueError("broken")


def test_a_transport_that_raises_stops_no_engine(layout: KVLayout, caplog: pytest.LogCaptureFixture) -> None:
    assert try_out(_Broken(layout=layout), "host", 10) == ERROR
    assert "the trial of the transport failed" in caplog.text


def test_the_first_failure_of_each_cause_is_a_warning_with_the_clients_own_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = Failures()
    with caplog.at_level(logging.DEBUG, "vllm.yuanrong"):
        for text in ("Load plugin failed", "again", "RPC deadline exceeded", "key not found"):
            failures.name("put", RuntimeError(text))
    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert told == [
        (logging.WARNING, "put failed (error): Load plugin failed"),
        (logging.DEBUG, "put failed (error): again"),
        (logging.WARNING, "put failed (timeout): RPC deadline exceeded"),
        (logging.DEBUG, "put failed (missing): key not found"),
    ]
