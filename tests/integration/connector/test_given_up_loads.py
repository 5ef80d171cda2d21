"""A call that hangs while it writes holds its blocks, and no answer: the request is computed into other ones."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from tests.integration.connector.engine import Engine, reference  # noqa: E402
from tests.integration.connector.test_returning_ids import FIRST, OTHER, Copies, begin, come_back, made  # noqa: E402


def hanging(engine: Engine) -> Copies:
    """Bring a load to where it writes and is past its deadline."""
    begin(engine)
    copies = Copies(engine)
    for worker in engine.workers:
        for job in worker._loads:
            assert job.begin()
            job.begun -= 1000.0  # seconds
    copies.begin()
    assert copies.jobs
    return copies


def answer(engine: Engine, name: str = "x") -> None:
    """Take steps until a request is answered, while its load hangs."""
    for _ in range(50):
        engine.step()
        if name not in engine.scheduler.requests:
            return
    raise AssertionError("it waits for a call that hangs")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("ascend", [False, True])
@pytest.mark.parametrize("cause", [None, "timeout"])
def test_the_answer_does_not_wait_and_nobody_gets_the_blocks_before_the_last_write(
    tmp_path: Path, ascend: bool, ranks: int, cause: str | None
) -> None:
    engine = made(tmp_path, ascend, ranks=ranks, blocks=13)  # two requests and the null block
    copies = hanging(engine)
    answer(engine)
    assert engine.answers["x"] == reference(FIRST, [], 3)
    engine.add("next", list(OTHER), 3)
    engine.step()
    copies.end(cause)  # into its own blocks, or "next" would be answered from the wrong ones
    engine.speed = 1.0
    engine.finish()  # and every block comes back
    assert engine.answers["next"] == reference(OTHER, [], 3)
    assert not engine.scheduler._given_up


@pytest.mark.parametrize("ascend", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_request_that_leaves_and_comes_back_after_its_load_was_given_up_is_answered(
    tmp_path: Path, ascend: bool, steps: int
) -> None:
    engine = made(tmp_path, ascend)
    copies = hanging(engine)
    for _ in range(steps):
        engine.step()
    come_back(engine, OTHER)
    answer(engine)
    copies.end()
    engine.speed = 1.0
    engine.finish()
    assert engine.answers["x"] == reference(OTHER, [], 3)


@pytest.mark.parametrize("ascend", [False, True])
def test_with_local_blocks_before_the_loaded_ones_all_of_them_come_back(tmp_path: Path, ascend: bool) -> None:
    engine = made(tmp_path, ascend)
    engine.speed = 1.0
    engine.add("warm", [*FIRST[:8], 5], 1)
    engine.finish()
    engine.speed = 0.0
    copies = hanging(engine)
    answer(engine)
    copies.end()
    engine.speed = 1.0
    engine.finish()
    assert engine.answers["x"] == reference(FIRST, [], 3)
