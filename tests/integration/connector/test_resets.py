"""A reset of the prefix cache while blocks are kept from the last write of a load that nobody waits for.

vLLM's engine refuses a reset while any block is used, and throws that answer away: whoever has put other weights into a
drained engine would go on with what the old ones computed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from tests.integration.connector.engine import Engine, reference  # noqa: E402
from tests.integration.connector.test_given_up_loads import answer, hanging  # noqa: E402
from tests.integration.connector.test_returning_ids import OTHER, Copies, begin, finish, made  # noqa: E402


def warmed(folder: Path, ascend: bool) -> Engine:
    """Return an engine with a prompt in its own prefix cache."""
    engine = made(folder, ascend, blocks=14)
    engine.speed = 1.0
    engine.add("warm", list(OTHER), 1)
    engine.finish()
    engine.speed = 0.0
    assert cached(engine)
    return engine


def cached(engine: Engine) -> int:
    return len(engine.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block)


def draining(engine: Engine) -> Copies:
    """Let a client leave during its load."""
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    engine.abort("x")
    engine.step()
    assert engine.scheduler._held
    return copies


def given_up(engine: Engine) -> Copies:
    """Answer a request whose load hangs."""
    copies = hanging(engine)
    answer(engine)
    assert engine.scheduler._given_up
    return copies


@pytest.mark.parametrize("ascend", [False, True])
@pytest.mark.parametrize("keep", [draining, given_up])
def test_a_reset_of_an_engine_without_requests_succeeds_though_a_load_still_writes(
    tmp_path: Path, ascend: bool, keep: object
) -> None:
    engine = warmed(tmp_path, ascend)
    assert callable(keep)
    copies = keep(engine)
    free = engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    for _ in range(2):
        assert engine.scheduler.reset_prefix_cache()
        assert not cached(engine)
        assert engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == free, "the load's blocks are kept"
    engine.add("next", list(OTHER), 3)
    engine.step()
    copies.end()  # into blocks that nobody else has, or "next" would be answered from them
    finish(engine)
    assert engine.answers["next"] == reference(OTHER, [], 3)


@pytest.mark.parametrize("ascend", [False, True])
def test_a_reset_with_a_running_request_is_refused_and_gives_no_kept_block_away(tmp_path: Path, ascend: bool) -> None:
    engine = warmed(tmp_path, ascend)
    copies = draining(engine)
    engine.add("runs", [9] * 9, 4)
    engine.step()
    free = engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    assert not engine.scheduler.reset_prefix_cache()
    assert engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == free
    engine.add("next", list(OTHER), 3)
    for _ in range(2):
        engine.step()
    copies.end()
    finish(engine)
