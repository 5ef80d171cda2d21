"""A client that comes back under its own id: whatever still runs under that id is never its business.

The engine's id is the client's choice (``X-Request-Id``), so it may name another request at any moment: while the first
one's load waits, copies, or has ended without anybody having asked.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from tests.integration.connector.engine import Engine, Setup, reference  # noqa: E402
from tests.unit.connector.fakes import write_block  # noqa: E402

FIRST = [3] * 12 + [1] * 9
OTHER = [7] * 12 + [2] * 9


def made(folder: Path, ascend: bool, **more: Any) -> Engine:
    """Return a decode engine whose DataSystem has the first prompt, and which carries nothing out by itself."""
    store: dict[str, bytes] = {}
    rng = random.Random(1)
    prefill = Engine(Setup(role="kv_producer", ranks=more.get("ranks", 1)), store, folder, rng)
    prefill.speed = 1.0
    prefill.add("p", list(FIRST), 1)
    prefill.finish()
    engine = Engine(Setup(role="kv_consumer", ascend=ascend, **more), store, folder, rng)
    engine.speed = 0.0
    return engine


def begin(engine: Engine, name: str = "x") -> None:
    """Bring a request with the first prompt to where its load waits."""
    engine.add(name, list(FIRST), 3)
    engine.step()
    assert engine.scheduler.requests[name].status.name == "WAITING_FOR_REMOTE_KVS"


def come_back(engine: Engine, prompt: list[int], name: str = "x") -> None:
    """Let the client leave, and another request come under its id."""
    engine.abort(name)
    engine.aborted.discard(name)
    engine.add(name, list(prompt), 3)


def finish(engine: Engine) -> None:
    engine.speed = 1.0
    engine.finish()


class Copies:
    """Loads that have begun to write, as on an NPU: they cannot be called off, and end when the test says so."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.jobs: list[tuple[Any, Any]] = []

    def begin(self) -> None:
        """Let everything that is queued begin."""
        for worker in self.engine.workers:
            while not worker._load_queue.empty():
                job = worker._load_queue.get()
                assert job is not None
                if job.guard.enter():
                    self.jobs.append((worker, job))
                else:
                    job.end("revoked")

    def end(self, cause: str | None = None) -> None:
        """Write what was loaded, whoever has those blocks now, and end all of them."""
        for worker, job in self.jobs:
            for key, block in zip(job.keys, job.blocks, strict=True):
                write_block(worker._layout, block, self.engine.store[key])
            job.guard.leave()
            job.end(cause)
        self.jobs.clear()


@pytest.mark.parametrize("ascend", [False, True])
@pytest.mark.parametrize("local", ["", "own", "first's"])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("prompt", [FIRST, OTHER], ids=["same", "other"])
def test_a_request_under_the_id_of_one_that_still_loads_is_answered(
    tmp_path: Path, ascend: bool, local: str, caching: bool, prompt: list[int]
) -> None:
    engine = made(tmp_path, ascend, caching=caching)
    if local:
        engine.speed = 1.0
        engine.add("warm", [*(prompt if local == "own" else FIRST)[:8], 5], 1)
        engine.finish()
        engine.speed = 0.0
    begin(engine)
    come_back(engine, prompt)
    for _ in range(3):
        engine.step()
    finish(engine)
    assert engine.answers["x"] == reference(prompt, [], 3)


@pytest.mark.parametrize("ascend", [False, True])
def test_what_it_computes_is_cached_under_its_own_hashes(tmp_path: Path, ascend: bool) -> None:
    engine = made(tmp_path, ascend)
    begin(engine)
    come_back(engine, OTHER)
    finish(engine)
    engine.store.clear()  # what the next one finds, it finds in this engine
    engine.add("next", list(FIRST), 3)
    engine.finish()


@pytest.mark.parametrize("ascend", [False, True])
def test_a_copy_that_cannot_be_called_off_stays_out_of_its_blocks(tmp_path: Path, ascend: bool) -> None:
    engine = made(tmp_path, ascend)
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    come_back(engine, OTHER)
    for _ in range(2):
        engine.step()
    copies.end()
    finish(engine)
    assert engine.answers["x"] == reference(OTHER, [], 3)


@pytest.mark.parametrize("ascend", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_id_that_comes_back_three_times_loads_each_time(tmp_path: Path, ascend: bool, ranks: int) -> None:
    engine = made(tmp_path, ascend, ranks=ranks, blocks=40)
    copies = Copies(engine)
    begin(engine)
    for _ in range(3):
        copies.begin()
        come_back(engine, FIRST)
        engine.step()
    assert len(engine.scheduler._held) == 3, "each load keeps the blocks that it may write to"
    assert len(engine.workers[0]._loads) == 4
    copies.end()
    finish(engine)
    assert engine.answers["x"] == reference(FIRST, [], 3)
    assert engine.counts["loaded_blocks"] == ranks * 5, "the last one loads, too"


@pytest.mark.parametrize("ascend", [False, True])
@pytest.mark.parametrize("fault", [None, "missing"])
def test_the_end_of_an_earlier_load_is_not_that_of_the_present_one(
    tmp_path: Path, ascend: bool, fault: str | None
) -> None:
    engine = made(tmp_path, ascend)
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    come_back(engine, FIRST)
    engine.step()
    copies.end(fault)
    engine.step()
    assert not engine.scheduler._held
    assert engine.scheduler.requests["x"].status.name == "WAITING_FOR_REMOTE_KVS", "its own load has not ended"
    assert not engine.scheduler._failed_kv_loads
    finish(engine)
    assert engine.counts["loaded_blocks"] == 5


def test_an_engine_with_nothing_else_to_do_goes_on_until_the_blocks_are_back(tmp_path: Path) -> None:
    engine = made(tmp_path, False)
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    engine.abort("x")
    for _ in range(5):
        assert engine.scheduler.has_requests()
        engine.step()
    assert not engine.scheduler.requests, "the id is free at once"
    copies.end()
    while engine.scheduler.has_requests():
        engine.step()
    assert engine.scheduler.reset_prefix_cache()
    engine.finish()


def test_an_engine_does_not_wait_for_ever_for_a_copy_that_never_ends(tmp_path: Path) -> None:
    engine = made(tmp_path, False)
    side = engine.scheduler.connector._scheduler
    now = [0.0]
    side._clock = lambda: now[0]
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    engine.abort("x")
    engine.step()
    now[0] = side._config.load_timeout_ms / 1000
    assert not engine.scheduler.has_requests()
    assert engine.scheduler._held, "but nobody else gets the blocks"
    copies.end()
    finish(engine)


@pytest.mark.parametrize("ascend", [False, True])
def test_an_id_that_was_aborted_twice_is_given_back_once(tmp_path: Path, ascend: bool) -> None:
    engine = made(tmp_path, ascend)
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    engine.abort("x")
    engine.abort("x")
    side = engine.scheduler.connector._scheduler
    assert len(side._new_drains) == 1
    engine.step()
    engine.abort("x")
    engine.step()
    assert engine.scheduler._held
    copies.end()
    finish(engine)


def test_an_id_may_look_like_a_mark_or_the_name_of_a_load(tmp_path: Path) -> None:
    engine = made(tmp_path, False, blocks=60)
    names = ["yrfail:x", "yrlate:x", "yrload:0", "yrload:1", "yrfail:yrload:0", "x"]
    for name in names:
        engine.add(name, list(FIRST), 2)
    engine.step()
    for name in names[:3]:
        come_back(engine, FIRST, name)
    finish(engine)
    assert engine.counts["loaded_blocks"] > 0
