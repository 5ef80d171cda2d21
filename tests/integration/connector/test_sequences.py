"""Sequences that somebody who wanted to break the connector thought of; docs/connector.md has all: "What was tried".

Those that had a test elsewhere are not here again.
"""

from __future__ import annotations

import ctypes
import random
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from vllm.config import KVTransferConfig  # noqa: E402
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager  # noqa: E402
from vllm.v1.core.sched.request_queue import SchedulingPolicy, create_request_queue  # noqa: E402
from vllm.v1.request import RequestStatus  # noqa: E402
from vllm_ascend.distributed.yuanrong.keys import BlockChain, MediaItem, block_key  # noqa: E402

from tests.integration.connector.engine import Engine, Setup, reference  # noqa: E402
from tests.integration.connector.test_returning_ids import FIRST, OTHER, Copies, begin, come_back, finish, made  # noqa: E402
from workshop.vllm_objects import make_request  # noqa: E402

#: vLLM's own scheduler, and the Ascend one as it is used: without chunks.
SCHEDULERS = pytest.mark.parametrize(("ascend", "chunked"), [(False, True), (True, False)], ids=["vllm", "ascend"])


def importance(engine: Engine) -> None:
    """Let an engine go by priorities."""
    engine.scheduler.policy = SchedulingPolicy.PRIORITY
    engine.scheduler.waiting = create_request_queue(SchedulingPolicy.PRIORITY)


def add(engine: Engine, name: str, prompt: list[int], count: int, **fields: Any) -> Any:
    """Add a request with fields of its own, and return it."""
    request = make_request(name, prompt, [], count, engine.setup.block_size)
    for field, value in fields.items():
        setattr(request, field, value)
    engine.requests[name] = (prompt, [], count)
    engine.answers[name] = []
    engine.scheduler.add_request(request)
    return request


def status(engine: Engine, name: str = "x") -> str:
    return str(engine.scheduler.requests[name].status.name)


# -- priorities --------------------------------------------------------------------------------------------------------


def test_who_is_preempted_for_an_important_request_was_not_scheduled_in_the_same_step(tmp_path: Path) -> None:
    """Without the order that the mix-in makes: an assertion in vLLM 0.10.0, two writers of one block in 0.11.0."""
    engine = Engine(Setup(blocks=6), {}, tmp_path, random.Random(1))  # five and the null block
    importance(engine)
    add(engine, "idle", [1] * 9, 5, priority=5)
    engine.step()
    add(engine, "urgent", [2] * 7, 6, priority=0)
    finish(engine)
    assert engine.counts["resumed"] == 1
    assert not engine.scheduler.waiting


def test_an_important_request_takes_no_block_that_a_load_writes(tmp_path: Path) -> None:
    engine = made(tmp_path, False, blocks=10)
    importance(engine)
    add(engine, "x", list(FIRST), 3, priority=5)
    engine.step()
    copies = Copies(engine)
    copies.begin()
    add(engine, "urgent", list(OTHER), 6, priority=0)  # six blocks, and four are free
    for _ in range(3):
        engine.step()
    assert status(engine) == "WAITING_FOR_REMOTE_KVS"
    assert not engine.answers["urgent"]
    copies.end()
    finish(engine)


# -- resets ------------------------------------------------------------------------------------------------------------


@SCHEDULERS
def test_a_reset_gives_up_what_was_loaded_and_waits_for_its_last_block(
    tmp_path: Path, ascend: bool, chunked: bool
) -> None:
    engine = made(tmp_path, ascend, chunked=chunked, blocks=9 if ascend else 8)
    engine.add("runs", [9] * 5, 4)
    engine.step()
    begin(engine)
    copies = Copies(engine)
    copies.begin()
    copies.end()
    for _ in range(2):
        engine.step()
    request = engine.scheduler.requests["x"]
    assert (request.status.name, request.num_computed_tokens) == ("WAITING", 20)
    engine.scheduler.reset_prefix_cache()
    assert request.num_computed_tokens == 0
    assert not engine.scheduler.kv_cache_manager.get_block_ids("x")[0]
    finish(engine)


@SCHEDULERS
@pytest.mark.parametrize("when", ["load", "drain", "both"])
def test_two_resets_with_a_load_or_a_drain_between_them(tmp_path: Path, ascend: bool, chunked: bool, when: str) -> None:
    engine = made(tmp_path, ascend, chunked=chunked, blocks=40)
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    engine.scheduler.reset_prefix_cache()
    if when != "load":
        come_back(engine, FIRST)
        engine.step()
    if when == "both":
        copies.end()
        engine.step()
    engine.scheduler.reset_prefix_cache()
    engine.step()
    copies.end()
    finish(engine)
    assert engine.scheduler.reset_prefix_cache(), "no block is held any more"
    assert not engine.scheduler._outdated
    assert not engine.scheduler._held


# -- ends of loads -----------------------------------------------------------------------------------------------------


@SCHEDULERS
@pytest.mark.parametrize("cause", [None, "missing", "timeout"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_abort_between_the_end_of_a_load_and_its_report(
    tmp_path: Path, ascend: bool, chunked: bool, cause: str | None, ranks: int
) -> None:
    engine = made(tmp_path, ascend, chunked=chunked, ranks=ranks)
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    copies.end(cause)
    engine.abort("x")
    assert engine.scheduler._held
    finish(engine)


@SCHEDULERS
@pytest.mark.parametrize("cause", [None, "missing"])
def test_an_abort_between_the_report_of_a_load_and_the_next_step(
    tmp_path: Path, ascend: bool, chunked: bool, cause: str | None
) -> None:
    engine = made(tmp_path, ascend, chunked=chunked)
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    copies.end(cause)
    engine.step()
    assert status(engine) == "WAITING_FOR_REMOTE_KVS"
    come_back(engine, OTHER)
    assert not engine.scheduler._held, "the load has ended: no drain"
    finish(engine)
    assert engine.answers["x"] == reference(OTHER, [], 3)


def test_one_rank_loads_well_and_the_other_not(tmp_path: Path) -> None:
    engine = made(tmp_path, False, ranks=2)
    begin(engine)
    copies = Copies(engine)
    copies.begin()
    (_, first), (_, second) = copies.jobs
    first.guard.leave()
    first.end(None)
    for _ in range(2):
        engine.step()
    assert status(engine) == "WAITING_FOR_REMOTE_KVS", "a rank that has ended waits for the other"
    second.guard.leave()
    second.end("missing")
    copies.jobs.clear()
    engine.step()
    assert not engine.scheduler.connector._scheduler._tracked["x"].loads, "it is computed on both"
    finish(engine)


@SCHEDULERS
def test_twins_that_load_one_prompt_at_once_do_not_share_what_is_not_there_yet(
    tmp_path: Path, ascend: bool, chunked: bool
) -> None:
    """As the children of a request with n > 1: one load ends well, one fails, one is still on its way."""
    engine = made(tmp_path, ascend, chunked=chunked, blocks=60)
    copies = Copies(engine)
    for name in ("0_x", "1_x", "2_x"):
        engine.add(name, list(FIRST), 3)
    engine.step()
    copies.begin()
    jobs = copies.jobs
    assert len(jobs) == 3
    copies.jobs = [jobs[0]]
    copies.end()
    copies.jobs = [jobs[1]]
    copies.end("missing")
    for _ in range(2):
        engine.step()
    assert status(engine, "2_x") == "WAITING_FOR_REMOTE_KVS"
    copies.jobs = [jobs[2]]
    copies.end()
    finish(engine)


@SCHEDULERS
def test_the_answer_of_a_lookup_gets_old_while_a_request_waits(tmp_path: Path, ascend: bool, chunked: bool) -> None:
    """What the lookup found is evicted before there is room for the load."""
    engine = made(tmp_path, ascend, chunked=chunked, seqs=1, extra={"lookup_cache_ms": 60000})
    engine.add("runs", [9] * 5, 6)
    engine.step()
    engine.add("x", list(FIRST), 3)
    engine.step()
    assert engine.scheduler.connector._scheduler._tracked["x"].hit_blocks == 5
    engine.store.clear()
    finish(engine)
    assert engine.counts["load_failures:missing"] == 1


@SCHEDULERS
@pytest.mark.parametrize("length", [4, 5, 8, 20])
def test_at_least_one_token_of_a_prompt_is_computed(tmp_path: Path, ascend: bool, chunked: bool, length: int) -> None:
    engine = made(tmp_path, ascend, chunked=chunked)
    engine.speed = 1.0
    engine.add("x", FIRST[:length], 1)
    engine.finish()
    assert engine.counts.get("loaded_blocks", 0) == (length - 1) // 4


def test_a_request_that_waits_for_its_grammar_loads_after_it(tmp_path: Path) -> None:
    engine = made(tmp_path, False)
    request = add(engine, "x", list(FIRST), 3, status=RequestStatus.WAITING_FOR_FSM)
    for _ in range(3):
        engine.step()
    assert status(engine) == "WAITING_FOR_FSM"
    assert not engine.scheduler.connector._scheduler._open_loads
    request.status = RequestStatus.WAITING
    finish(engine)
    assert engine.counts["loaded_blocks"] == 5


@SCHEDULERS
@pytest.mark.parametrize("cause", ["unavailable", "timeout"])
def test_the_datasystem_goes_away_between_a_lookup_and_its_load(
    tmp_path: Path, ascend: bool, chunked: bool, cause: str
) -> None:
    engine = made(tmp_path, ascend, chunked=chunked)
    begin(engine)
    engine.fault = lambda op, key: cause
    engine.add("y", list(FIRST), 3)  # its lookup fails, too
    finish(engine)
    assert engine.counts[f"load_failures:{cause}"] == 1
    assert not engine.counts.get("loaded_blocks")


@SCHEDULERS
@pytest.mark.parametrize("outcome", [None, "missing", "abort"])
def test_vllms_events_tell_of_loaded_blocks_when_they_are_there(
    tmp_path: Path, ascend: bool, chunked: bool, outcome: str | None
) -> None:
    engine = made(tmp_path, ascend, chunked=chunked)
    engine.scheduler.kv_cache_manager.block_pool.enable_kv_cache_events = True
    told: list[Any] = []
    engine.scheduler.kv_event_publisher.publish = lambda batch: told.extend(batch.events)
    copies = Copies(engine)
    begin(engine)
    copies.begin()
    for _ in range(2):
        engine.step()
    assert not told, "nothing is there yet"
    if outcome == "abort":
        engine.abort("x")
    copies.end(None if outcome == "abort" else outcome)
    finish(engine)
    stored = [block for event in told for block in event.block_hashes]
    assert len(stored) == len(set(stored)) == (0 if outcome == "abort" else 5)


@SCHEDULERS
def test_pictures_of_which_a_part_was_loaded_wait_for_room_for_the_rest(
    tmp_path: Path, ascend: bool, chunked: bool
) -> None:
    """The DataSystem has half of each; the encoder's results of one fill the room for them."""
    store: dict[str, bytes] = {}
    rng = random.Random(1)
    prefill = Engine(Setup(role="kv_producer"), store, tmp_path, rng)
    engine = Engine(Setup(role="kv_consumer", ascend=ascend, chunked=chunked, blocks=60), store, tmp_path, rng)
    engine.scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=8)
    engine.scheduler.max_num_encoder_input_tokens = 8
    prefill.speed = engine.speed = 1.0
    prompt = [3] * 4 + [51] * 8 + [5] * 6
    pictures = [[(letters * 32, 4, 8)] for letters in ("ca", "d0", "ee")]
    for number, items in enumerate(pictures):
        prefill.add(f"p{number}", list(prompt), 1, items)
    prefill.finish()
    namespace = engine.scheduler.connector._scheduler._namespace
    for items in pictures:
        for digest in BlockChain(namespace, 4, [MediaItem(*item) for item in items]).extend(prompt)[2:]:
            del store[block_key(namespace, "0of1", digest)]
    for number, items in enumerate(pictures * 2):
        engine.add(f"r{number}", list(prompt), 3, items)
    engine.finish()
    assert engine.counts["loaded_blocks"] >= 2 * len(pictures)


def test_a_prompt_longer_than_a_step_gives_back_what_was_loaded_of_it(tmp_path: Path) -> None:
    """AscendScheduler drops it when its load has ended, and does not tell the client."""
    engine = made(tmp_path, True, chunked=False, blocks=40)
    copies = Copies(engine)
    engine.add("x", [*FIRST[:20], *[8] * 40], 3)  # of 32 tokens are the steps
    engine.step()
    copies.begin()
    assert copies.jobs
    copies.end()
    for _ in range(2):
        engine.step()
    assert status(engine) == "FINISHED_IGNORED"
    assert engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == engine.free_at_start
    engine.abort("x")
    finish(engine)


# -- saves -------------------------------------------------------------------------------------------------------------


@SCHEDULERS
def test_an_output_block_is_not_saved_from_where_the_next_request_computes(
    tmp_path: Path, ascend: bool, chunked: bool
) -> None:
    """The request leaves right after the step that fills the block; the save has not begun."""
    engine = Engine(
        Setup(ascend=ascend, chunked=chunked, blocks=8, caching=False, extra={"save_output": True}),
        {}, tmp_path, random.Random(1),
    )  # fmt: skip
    engine.speed = 0.0
    engine.add("x", [1] * 6, 9)
    while len(engine.answers["x"]) < 3:
        engine.step()
    assert any(not job.ended for job in engine.workers[0]._saves)
    engine.abort("x")
    engine.add("y", [2] * 21, 3)  # takes every block
    engine.step()
    finish(engine)
    assert engine.counts["save_failures:revoked"] > 0


@SCHEDULERS
def test_blocks_of_an_answer_that_did_not_wait_change_hands(tmp_path: Path, ascend: bool, chunked: bool) -> None:
    """A prefill of one token whose saves are late."""
    setup = Setup(ascend=ascend, chunked=chunked, role="kv_producer", blocks=8, caching=False)
    engine = Engine(setup, {}, tmp_path, random.Random(1))
    engine.speed = 0.0
    engine.add("x", list(FIRST), 1)
    engine.step()
    assert engine.answers["x"] == reference(FIRST, [], 1)
    assert engine.counts["save_failures:late"] == 5
    engine.add("y", list(OTHER), 1)
    engine.step()
    finish(engine)


class Drafting(Engine):
    """An engine whose runner proposes tokens as an n-gram does; their entries are in the blocks until it is refused."""

    def _forward(self, output: Any) -> Any:
        proposed = {name: len(drafts) for name, drafts in output.scheduled_spec_decode_tokens.items()}
        for name, count in proposed.items():
            output.num_scheduled_tokens[name] -= count
        result = super()._forward(output)
        for name, count in proposed.items():
            output.num_scheduled_tokens[name] += count
            self._write_garbage(name, count)
            self._count("drafts", count)
        for name in output.num_scheduled_tokens:  # none of them is ever right
            self.scheduler.requests[name].spec_token_ids = [63, 63, 63]
        return result

    def _write_garbage(self, name: str, count: int) -> None:
        state, size = self.running[name], self.setup.block_size
        words = ctypes.cast(self.memories[0].data_ptr(), ctypes.POINTER(ctypes.c_uint64))
        end = len(state.tokens) - 1  # the last token has no entry yet
        for position in range(end, end + count):
            key = state.blocks[position // size] * size + position % size
            words[key] = words[key + self.setup.blocks * size] = 0


@SCHEDULERS
def test_drafts_that_are_refused_are_in_no_block_that_is_saved(tmp_path: Path, ascend: bool, chunked: bool) -> None:
    setup = Setup(ascend=ascend, chunked=chunked, extra={"save_output": True})
    engine = Drafting(setup, {}, tmp_path, random.Random(1))
    engine.speed = 1.0
    engine.add("x", [1] * 6, 14)
    engine.finish()
    assert engine.counts["drafts"] > 20
    assert engine.counts["saved_blocks"] == 4  # of 19 computed tokens


# -- refused -----------------------------------------------------------------------------------------------------------


def test_one_of_several_connectors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VLLM's MultiConnector passes reports on, but not the mix-in's questions: each load would wait for ever."""
    configure = Engine._vllm_config

    def several(engine: Engine, folder: Path, extra: dict[str, Any]) -> Any:
        config = configure(engine, folder, extra)
        one = config.kv_transfer_config
        inner = {
            name: getattr(one, name)
            for name in ("kv_connector", "kv_connector_module_path", "kv_role", "kv_connector_extra_config")
        }
        config.kv_transfer_config = KVTransferConfig(
            kv_connector="MultiConnector", kv_role="kv_both", kv_connector_extra_config={"connectors": [inner]}
        )
        return config

    monkeypatch.setattr(Engine, "_vllm_config", several)
    with pytest.raises(ValueError, match="one of several"):
        Engine(Setup(), {}, tmp_path, random.Random(1))
