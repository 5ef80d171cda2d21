"""How many calls the real schedulers make the connector ask with, whatever waits; counted, not timed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from vllm_ascend.distributed.yuanrong import lookups  # noqa: E402

from tests.integration.connector.engine import VOCABULARY, Engine, Setup  # noqa: E402


def made(folder: Path, ascend: bool, **more: Any) -> tuple[Engine, list[int]]:
    """Return an engine and the keys of each lookup since the list was cleared."""
    rng = random.Random(2)
    engine = Engine(Setup(ascend=ascend, chunked=not ascend, budget=64, seqs=64, **more), {}, folder, rng)
    engine.speed = 0.0
    calls: list[int] = []
    transport = engine.scheduler.connector._scheduler._transport
    exist = transport.exist

    def counted(keys: Sequence[str]) -> Any:
        calls.append(len(keys))
        return exist(keys)

    transport.exist = counted
    return engine, calls


def add(engine: Engine, number: int, length: int = 40, output: int = 4) -> None:
    for index in range(number):
        engine.add(f"q{index}", [engine.rng.randrange(VOCABULARY) for _ in range(length)], output)


@pytest.mark.parametrize("ascend", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_asks_a_handful_of_times_however_many_wait(tmp_path: Path, ascend: bool, ranks: int) -> None:
    engine, calls = made(tmp_path, ascend, ranks=ranks, extra={"lookup_cache_ms": 0})  # each answer is old at once
    add(engine, 200)
    engine.step()
    assert calls[0] == 200 * 10 * ranks, "all that came together, at once"
    for _ in range(30):
        assert len(calls) <= 1 + lookups.REPEATS_PER_STEP
        assert max(calls) <= lookups.KEYS_PER_CALL
        calls.clear()
        engine.step()
        calls.append(0)


@pytest.mark.parametrize("ascend", [False, True])
def test_a_queue_is_worked_off_in_its_order_though_a_call_has_no_room_for_it(
    tmp_path: Path, ascend: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_ascend.distributed.yuanrong.scheduler.KEYS_PER_CALL", 40)
    engine, calls = made(tmp_path, ascend, blocks=300)
    add(engine, 30, output=1)
    engine.speed = 1.0
    begun: list[str] = []
    schedule = engine.scheduler.schedule

    def recorded() -> Any:
        output = schedule()
        begun.extend(new.req_id for new in output.scheduled_new_reqs)
        return output

    engine.scheduler.schedule = recorded
    engine.step()
    assert calls[0] == 40
    assert [request.request_id for request in engine.scheduler.waiting] == [f"q{i}" for i in range(len(begun), 30)]
    engine.finish()
    assert begun == [f"q{i}" for i in range(30)]


@pytest.mark.parametrize("ascend", [False, True])
def test_what_is_found_is_loaded_though_many_are_asked_about_at_once(tmp_path: Path, ascend: bool) -> None:
    engine, _ = made(tmp_path, ascend, role="kv_producer", blocks=60)
    engine.speed = 1.0
    add(engine, 12, output=1)
    engine.finish()
    other, calls = made(tmp_path, ascend, role="kv_consumer", blocks=60)
    other.store.update(engine.store)
    other.speed = 1.0
    add(other, 12, output=3)  # the same prompts: the same seed
    other.finish()
    assert other.counts["loaded_blocks"] == 12 * 9, "all but the block with the last token"
    assert calls[0] == 120
