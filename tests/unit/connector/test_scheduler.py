# ruff: noqa: D101, D102 - stand-ins are named and shaped like what they stand in for
"""What is claimed, what is saved, what becomes of a request: the scheduler side over a dictionary."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yuanrong.adapters import Adapters
from yuanrong.config import ConnectorConfig
from yuanrong.keys import BlockChain, block_key
from yuanrong.metadata import FAILURE_MARK, LATE_MARK, LoadSpec, SaveSpec
from yuanrong.metrics import Metrics
from yuanrong.scheduler import SchedulerSide
from yuanrong.transport.base import TIMEOUT, UNAVAILABLE

from tests.unit.connector.fakes import Cached, FakeRequest, Lora, MemoryTransport, New, Output, Range, Sampling, Status
from tests.unit.connector.model_files import adapter

NS = b"n" * 32
BS = 4


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Counts(Metrics):
    """Remembers what was counted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, float]] = []

    def add(self, name: str, amount: float = 1) -> None:
        self.seen.append((name, amount))


class Rig:
    """A scheduler side with everything it needs."""

    def __init__(
        self, role: str = "kv_both", shards: tuple[str, ...] = ("0of1",), size: int = BS, **extra: Any
    ) -> None:
        config = ConnectorConfig.from_extra({"worker_address": "h:1", **extra}, role, {})
        self.transport, self.clock, self.counts = MemoryTransport(), Clock(), Counts()
        self.clock.now = 100.0
        self.side = SchedulerSide(config, NS, size, shards, self.transport, self.counts, self.clock)
        self.shards = shards

    def stock(self, tokens: list[int], blocks: int | None = None, shards: tuple[str, ...] | None = None) -> None:
        for digest in BlockChain(NS, BS).extend(tokens)[:blocks]:
            for shard in shards or self.shards:
                self.transport.store[block_key(NS, shard, digest)] = b""

    def asked(self) -> int:
        return sum(1 for op, _ in self.transport.calls if op == "exist")


def idle(side: SchedulerSide) -> bool:
    """Whether no per-request state is kept."""
    return not (side._tracked or side._loads or side._open_loads or side._draining or side._new_drains)


def request(count: int = 10, rid: str = "r", **more: Any) -> FakeRequest:
    return FakeRequest(rid, list(range(count)), **more)


@pytest.mark.parametrize(
    ("count", "claimed"), [(1, 0), (BS - 1, 0), (BS, 0), (BS + 1, BS), (2 * BS, BS), (2 * BS + 1, 2 * BS)]
)
def test_a_whole_prompt_hit_leaves_at_least_one_token(count: int, claimed: int) -> None:
    rig = Rig()
    rig.stock(list(range(count)))
    assert rig.side.match(request(count), 0) == claimed


@given(st.integers(1, 60), st.integers(0, 15), st.integers(0, 15), st.integers(1, 3), st.integers(1, 3))
def test_claims_are_whole_contiguous_and_on_every_rank(
    count: int, stocked: int, local: int, ranks: int, least: int
) -> None:
    shards = tuple(f"{r}of{ranks}" for r in range(ranks))
    rig = Rig(shards=shards, min_load_blocks=least)
    tokens = list(range(count))
    for rank, shard in enumerate(shards):  # the first rank has the fewest
        rig.stock(tokens, stocked + 3 * rank, (shard,))
    hits = min(stocked, count // BS)
    local = min(local, count // BS)
    claimed = rig.side.match(request(count), local * BS)
    assert claimed >= 0
    assert claimed % BS == 0
    assert local * BS + claimed <= max(local * BS, count - 1)
    expected = min(hits, (count - 1) // BS) - local
    assert claimed == (expected * BS if expected >= least else 0)


def test_a_hole_ends_the_claim() -> None:
    rig = Rig()
    tokens = list(range(20))
    rig.stock(tokens)
    del rig.transport.store[block_key(NS, "0of1", BlockChain(NS, BS).extend(tokens)[1])]
    assert rig.side.match(request(20), 0) == BS


@pytest.mark.parametrize(
    "change",
    [
        {"status": Status("PREEMPTED")}, {"output": [1]}, {"sampling_params": Sampling(prompt_logprobs=1)},
        {"sampling_params": None}, {"pooling_params": object()}, {"num_encoder_inputs": 1},
        {"num_encoder_inputs": 1, "mm_positions": [Range(0, 4)], "mm_hashes": [None]},
        {"num_encoder_inputs": 1, "mm_positions": [Range(0, 4)], "mm_hashes": ["cat"]},
        {"lora_request": Lora("l", "/l")}, {"cache_salt": "s"},
    ],
)  # fmt: skip
def test_what_cannot_be_shared_or_resumed_is_not_loaded(change: dict[str, Any]) -> None:
    rig = Rig()
    rig.stock(list(range(10)))
    assert rig.side.match(request(), 0) == 2 * BS
    assert rig.side.match(request(**{"rid": "other", **change}), 0) == 0


def test_an_unaligned_local_hit_is_not_extended() -> None:
    rig = Rig()
    rig.stock(list(range(10)))
    assert rig.side.match(request(), 3) == 0


def test_without_loading_nothing_is_asked() -> None:
    rig = Rig(load=False)
    rig.stock(list(range(10)))
    assert rig.side.match(request(), 0) == 0
    assert rig.asked() == 0


def test_asking_again_is_free_for_a_while_and_has_no_effect() -> None:
    rig = Rig()
    rig.stock(list(range(10)))
    waiting = request()
    assert [rig.side.match(waiting, 0) for _ in range(5)] == [8] * 5
    assert rig.asked() == 1
    rig.transport.store.clear()
    rig.clock.now += 0.9995
    assert rig.side.match(waiting, 0) == 8
    assert rig.asked() == 1
    rig.clock.now = 101.0
    assert rig.side.match(waiting, 0) == 0
    assert rig.asked() == 2


def test_an_outage_or_an_error_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.stock(list(range(10)))
    rig.transport.fault = lambda op, key: UNAVAILABLE
    assert rig.side.match(request(), 0) == 0

    def explode(op: str, key: str) -> str | None:
        raise RuntimeError("boom")

    rig.transport.fault = explode
    with caplog.at_level(logging.ERROR):
        assert rig.side.match(request(rid="q"), 0) == 0
    assert caplog.messages == ["lookup failed; the request is computed"]


def loading(rig: Rig, count: int = 10, local: int = 0, rid: str = "r") -> FakeRequest:
    """Bring a request to where its load was planned."""
    rig.stock(list(range(count)))
    req = request(count, rid)
    external = rig.side.match(req, local)
    assert external > 0
    blocks = list(range(100, 100 + (local + external) // BS))
    rig.side.allocated(req, blocks, external)
    return req


def test_a_load_names_the_blocks_beyond_the_local_ones() -> None:
    rig = Rig()
    loading(rig, 18, local=BS)
    plan = rig.side.plan(Output())
    digests = BlockChain(NS, BS).extend(list(range(18)))
    assert plan.loads == [LoadSpec("r", digests[1:4], [101, 102, 103], "yrload:0")]
    assert plan.new_blocks == [101, 102, 103]
    assert plan.namespace == NS
    assert plan.drains == []
    again = rig.side.plan(Output())
    assert not again.loads
    assert not again.new_blocks


def test_a_load_that_cannot_be_described_becomes_one_that_fails() -> None:
    rig = Rig()
    rig.side.allocated(request(rid="stranger"), [1, 2], 8)
    (spec,) = rig.side.plan(Output()).loads
    assert len(spec.digests) != len(spec.blocks)
    assert rig.side.request_of(spec.name) is not None, "its failure has to reach somebody"


def step(req: FakeRequest, blocks: list[int], computed: int, count: int) -> Output:
    return Output({req.request_id: count}, [New(req.request_id, (blocks,), computed)])


def more(req: FakeRequest, blocks: list[int], computed: int, count: int, resumed: bool = False) -> Output:
    return Output({req.request_id: count}, [], Cached([req.request_id], [resumed], [(blocks,)], [computed]))


def test_a_chunked_prefill_saves_each_full_block_once() -> None:
    rig = Rig("kv_producer")
    req = request(14)
    digests = BlockChain(NS, BS).extend(list(range(14)))
    assert rig.side.match(req, 0) == 0
    first = rig.side.plan(step(req, [5, 6], 0, 6))
    assert first.saves == [SaveSpec("r", digests[:1], [5], absent=True)]
    assert first.new_blocks == [5, 6]
    assert not first.sync_saves
    second = rig.side.plan(more(req, [7], 6, 5))
    assert second.saves == [SaveSpec("r", digests[1:2], [6], absent=True)]
    assert second.new_blocks == [7]
    third = rig.side.plan(more(req, [8], 11, 3))
    assert third.saves == [SaveSpec("r", digests[2:3], [7], absent=True)]
    assert third.sync_saves == ["r"], "the answer waits for the whole prompt"
    req.output = [1]
    decode = rig.side.plan(more(req, [], 14, 1))
    assert not decode.saves
    assert not decode.sync_saves


def test_outputs_are_saved_only_on_request() -> None:
    for save_output, saved in ((False, 0), (True, 1)):
        rig = Rig(save_output=save_output)
        req = request(6)
        rig.side.match(req, 0)
        rig.side.plan(step(req, [5, 6], 0, 6))
        req.output = [9, 9]
        plan = rig.side.plan(more(req, [], 6, 2))
        assert len(plan.saves) == saved
        if saved:
            assert plan.saves[0] == SaveSpec("r", BlockChain(NS, BS).extend([*range(6), 9, 9])[1:], [6], absent=False)


def test_what_is_present_is_not_saved_again() -> None:
    rig = Rig()
    rig.stock(list(range(14)), 2)
    req = request(14)
    rig.side.match(req, 3 * BS)  # more is cached locally than the DataSystem has
    plan = rig.side.plan(step(req, [1, 2, 3, 4], 12, 2))
    assert plan.saves == [SaveSpec("r", BlockChain(NS, BS).extend(list(range(14)))[2:], [3], absent=True)]
    assert plan.new_blocks == [4], "cached blocks are not written"


@pytest.mark.parametrize("ranks", [1, 2])
def test_only_blocks_after_the_last_one_found_are_known_to_be_absent(ranks: int) -> None:
    rig = Rig(shards=tuple(f"{r}of{ranks}" for r in range(ranks)))
    prompt = list(range(5 * BS))
    for index, digest in enumerate(BlockChain(NS, BS).extend(prompt)):
        if index in (0, 2):  # the second was evicted
            rig.transport.store[block_key(NS, rig.shards[-1], digest)] = b""
    req = request(5 * BS)
    assert rig.side.match(req, 0) == (BS if ranks == 1 else 0)
    rig.side.allocated(req, [1], BS if ranks == 1 else 0)
    assert not rig.side.plan(step(req, [1, 2], 0, 2 * BS)).saves[0].absent
    assert not rig.side.plan(more(req, [3], 2 * BS, BS)).saves[0].absent
    assert rig.side.plan(more(req, [4, 5], 3 * BS, 2 * BS)).saves[0].absent


@pytest.mark.parametrize("found", [0, 1])
def test_one_block_found_at_the_beginning_is_not_known_to_be_absent(found: int) -> None:
    rig = Rig()
    prompt = list(range(3 * BS))
    rig.transport.store[block_key(NS, "0of1", BlockChain(NS, BS).extend(prompt)[found])] = b""
    req = request(3 * BS)
    rig.side.match(req, BS)  # the first block is cached locally
    saves = [rig.side.plan(step(req, [1, 2], BS, BS)).saves[0], rig.side.plan(more(req, [3], 2 * BS, BS)).saves[0]]
    assert [save.absent for save in saves] == [found == 0, True]


def test_after_a_failed_lookup_nothing_is_known_to_be_absent() -> None:
    rig = Rig()
    rig.transport.fault = lambda op, key: TIMEOUT
    req = request(2 * BS)
    assert rig.side.match(req, 0) == 0
    assert not rig.side.plan(step(req, [1, 2], 0, 2 * BS)).saves[0].absent


def test_a_resumed_request_forgets_its_old_blocks() -> None:
    rig = Rig()
    req = request(14)
    rig.side.match(req, 0)
    rig.side.plan(step(req, [5, 6], 0, 6))
    req.status = Status("PREEMPTED")
    assert rig.side.match(req, 0) == 0
    rig.side.allocated(req, [1, 2, 3], 0)
    plan = rig.side.plan(more(req, [1, 2, 3], 0, 12, resumed=True))
    assert plan.saves == [SaveSpec("r", BlockChain(NS, BS).extend(list(range(14))), [1, 2, 3], absent=True)]
    assert plan.new_blocks == [1, 2, 3]


def test_a_consumer_saves_nothing() -> None:
    rig = Rig("kv_consumer")
    req = request(14)
    rig.side.match(req, 0)
    plan = rig.side.plan(step(req, [1, 2, 3, 4], 0, 14))
    assert not plan.saves
    assert not plan.sync_saves
    assert not plan.new_blocks


def test_requests_that_cannot_be_named_are_not_saved_but_their_blocks_are_guarded() -> None:
    rig = Rig()
    req = request(8, num_encoder_inputs=1)
    rig.side.match(req, 0)
    assert rig.side.plan(step(req, [1, 2], 0, 8)).new_blocks == [1, 2]
    plan = rig.side.plan(more(req, [3], 8, 1))
    assert plan.new_blocks == [3]
    assert not plan.saves


def test_a_plan_with_a_mistake_in_it_still_starts_its_loads(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    loading(rig)
    plan = rig.side.plan(Output({}, [New("r", ([],))]))
    assert len(plan.loads) == 1
    assert caplog.messages == ["saves were not planned"]


def test_blocks_that_do_not_fit_their_digests_are_not_saved() -> None:
    rig = Rig()
    req = request(14)
    rig.side.match(req, 0)
    assert not rig.side.plan(step(req, [1], 0, 14)).saves


def test_after_a_load_the_rest_is_saved() -> None:
    rig = Rig()
    rig.stock(list(range(10)), 1)
    req = request(10)
    assert rig.side.match(req, 0) == BS
    rig.side.allocated(req, [1], BS)
    rig.side.plan(Output())
    rig.side.load_finished("r", ok=True)
    rig.side.allocated(req, [2, 3], 0)
    plan = rig.side.plan(step(req, [1, 2, 3], BS, 6))
    assert plan.saves == [SaveSpec("r", BlockChain(NS, BS).extend(list(range(10)))[1:], [2], absent=True)]


def test_after_a_failed_load_nothing_is_loaded_and_everything_is_saved() -> None:
    rig = Rig()
    req = loading(rig)
    rig.side.plan(Output())
    rig.side.load_finished("r", ok=False)
    rig.clock.now += 100
    assert rig.side.match(req, 0) == 0
    plan = rig.side.plan(step(req, [1, 2, 3], 0, 10))
    assert plan.saves[0].blocks == [1, 2]


def test_an_abort_during_a_load_keeps_the_blocks_until_drained() -> None:
    rig = Rig()
    req = loading(rig)
    (spec,) = rig.side.plan(Output()).loads
    assert rig.side.finished(req)
    assert rig.side.finished(req), "asked twice, the copy still runs"
    assert rig.side.draining(req)
    assert rig.side.plan(Output()).drains == [spec.name]
    assert not rig.side.plan(Output()).drains, "told once"
    assert rig.side.request_of(spec.name) is req
    rig.side.drained(spec.name)
    assert not rig.side.draining(req)
    assert not rig.side.finished(req)
    assert idle(rig.side)


@pytest.mark.parametrize("rid", ["r", FAILURE_MARK + "r", LATE_MARK, "yrload:0"])
def test_an_id_that_comes_back_has_loads_of_its_own(rid: str) -> None:
    rig = Rig()
    before = loading(rig, rid=rid)
    assert rig.side.finished(before)
    again = loading(rig, rid=rid)
    plan = rig.side.plan(Output())
    first, second = plan.loads
    assert first.name != second.name
    assert plan.drains == [first.name]
    assert (rig.side.request_of(first.name), rig.side.request_of(second.name)) == (before, again)
    rig.side.drained(first.name)
    assert rig.side.match(again, 0) == 0, "it still loads"
    assert rig.side.finished(again)
    assert not rig.side.finished(request(rid=rid)), "a third one has no load"


def test_what_is_kept_under_an_id_is_not_taken_for_another_request() -> None:
    rig = Rig()
    ended = request()
    rig.side.match(ended, 0)
    hidden = request(rid="r", pooling_params=object())
    assert rig.side.match(hidden, 0) == 0
    assert not rig.side.plan(step(hidden, [1, 2, 3], 0, 10)).saves, "nor saved under its keys"
    assert idle(rig.side)


def test_an_idle_engine_looks_for_the_end_of_a_drain_as_long_as_a_load_may_take() -> None:
    rig = Rig(load_timeout_ms=500)
    assert not rig.side.awaits_drains()
    rig.side.finished(loading(rig))
    rig.clock.now += 0.499
    assert rig.side.awaits_drains()
    rig.clock.now = 100.5
    assert not rig.side.awaits_drains()


def test_an_abort_after_the_load_needs_no_drain() -> None:
    rig = Rig()
    req = loading(rig)
    rig.side.plan(Output())
    rig.side.load_finished("r", ok=True)
    assert not rig.side.finished(req)
    assert idle(rig.side)


def test_finishing_and_reports_of_strangers_do_nothing() -> None:
    rig = Rig()
    assert not rig.side.finished(request())
    rig.side.load_finished("stranger", ok=True)
    rig.side.load_discarded("stranger")
    rig.side.drained("stranger")
    assert idle(rig.side)


def test_a_request_that_ends_behind_the_connectors_back_is_forgotten() -> None:
    rig = Rig()
    ignored, reused = request(rid="ignored"), request(rid="reused")
    rig.side.match(ignored, 0)
    rig.side.match(reused, 0)
    ignored.done = True
    rig.side.plan(Output(finished_req_ids={"ignored", "reused", "stranger"}))
    assert set(rig.side._tracked) == {"reused"}


def test_an_id_that_comes_back_with_another_prompt_is_another_request() -> None:
    rig = Rig()
    rig.stock(list(range(10)))
    assert rig.side.match(request(), 0) == 8
    assert rig.side.match(FakeRequest("r", [7] * 10), 0) == 0


@pytest.mark.parametrize("change", [{"num_encoder_inputs": 1}, {"prompt_token_ids": None}])
def test_what_has_no_name_is_no_error(change: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    nameless = request()
    for name, value in change.items():
        setattr(nameless, name, value)
    if nameless.prompt_token_ids is None:  # given as embeddings
        nameless.prompt_embeds = object()
    assert rig.side._match(nameless, 0) == 0
    assert idle(rig.side)
    assert not caplog.records


def test_blocks_under_a_lora_are_found_by_the_content_of_its_files(tmp_path: Path) -> None:
    rig = Rig()
    loras = {"one": Lora("l", str(adapter(tmp_path / "one", b"1")), 1)}
    loras["copy"] = Lora("x", str(adapter(tmp_path / "copy", b"1")), 2)
    loras["other"] = Lora("l", str(adapter(tmp_path / "other", b"2")), 3)
    root = Adapters().identity(loras["one"])
    for digest in BlockChain(NS, BS, lora=root).extend(list(range(10))):
        rig.transport.store[block_key(NS, "0of1", digest)] = b""
    found = {name: rig.side.match(request(rid=name, lora_request=lora), 0) for name, lora in loras.items()}
    assert found == {"one": 8, "copy": 8, "other": 0}


def test_a_lora_that_changed_since_its_load_is_neither_loaded_nor_saved(tmp_path: Path) -> None:
    rig = Rig()
    lora = Lora("l", str(adapter(tmp_path / "l", b"1")), 1)
    assert rig.side._track(request(rid="before", lora_request=lora)) is not None
    adapter(tmp_path / "l", b"2")
    assert rig.side._track(request(rid="after", lora_request=lora)) is None


def test_under_another_name_nothing_that_was_stored_is_found_and_new_requests_are_shared_again() -> None:
    rig = Rig()
    rig.stock(list(range(10)))
    waiting = request(rid="w")
    assert rig.side.match(waiting, 0) == 2 * BS
    rig.side.renamed(b"x" * 32)
    assert rig.side.match(waiting, 0) == rig.side.match(request(rid="new"), 0) == 0
    for digest in BlockChain(b"x" * 32, BS).extend(list(range(10))):
        rig.transport.store[block_key(b"x" * 32, "0of1", digest)] = b""
    assert rig.side.match(request(rid="newer"), 0) == 2 * BS
    assert rig.side.plan(Output()).namespace == b"x" * 32


def test_what_was_begun_before_a_new_name_is_not_saved_after_it() -> None:
    rig = Rig()
    running, arriving = FakeRequest("running", list(range(50, 60))), loading(rig, 10, rid="arriving")
    rig.side.match(running, 0)
    rig.side.allocated(running, [1, 2, 3], 0)
    assert rig.side.plan(Output({"running": 4}, [New("running", ([1, 2, 3],))])).saves
    rig.side.renamed(b"x" * 32)
    rig.side.load_finished("arriving", ok=False)
    step = Output(
        {"arriving": 10, "running": 6}, [New("arriving", ([4, 5, 6],))], Cached(["running"], [False], [([],)], [4])
    )
    assert not rig.side.plan(step).saves
    assert rig.side.finished(running) is rig.side.finished(arriving) is False
    assert idle(rig.side)


def test_what_is_claimed_and_what_was_asked_for_is_counted_once() -> None:
    rig = Rig()
    req = loading(rig, 10)
    rig.side.load_finished("r", ok=True)
    rig.side.allocated(req, [1, 2, 3], 0)
    assert rig.counts.seen == [("queried_tokens", 10), ("matched_tokens", 8)]
    other = loading(rig, 10, rid="q")
    rig.side.load_finished(other.request_id, ok=False)
    assert rig.counts.seen[2:] == [("queried_tokens", 10), ("matched_tokens", 8), ("recomputed_requests", 1)]


def test_after_a_load_a_request_may_be_matched_again() -> None:
    rig = Rig()
    req = loading(rig)
    assert rig.side.match(req, 0) == 0, "it is loading"
    rig.side.load_finished("r", ok=True)
    assert rig.side.match(req, 0) == 8


def test_a_claim_of_nothing_loads_nothing_and_a_block_of_one_token_is_a_block() -> None:
    rig = Rig(size=1)
    req = request(3)
    rig.side.match(req, 0)
    rig.side.allocated(req, [7, 8], 0)
    assert not rig.side.plan(Output()).loads
    rig.side.allocated(req, [7, 8], 1)
    assert [spec.blocks for spec in rig.side.plan(Output()).loads] == [[8]]


def test_a_step_names_the_new_blocks_of_all_its_requests() -> None:
    rig = Rig()
    loading(rig, 10, rid="a")
    loading(rig, 18, BS, rid="b")
    known = request(8, "known")
    rig.side.match(known, 0)
    output = Output(
        {"n": 8, "m": 4, "stranger": 1, "back": 8, "known": 8},
        [New("n", ([1, 2],), 0), New("m", ([1, 3],), BS)],
        Cached(["stranger", "back", "known"], [False, True, False], [([4],), ([5, 6, 7],), ([8, 9],)], [8, BS, 0]),
    )
    plan = rig.side.plan(output)
    # Of "m" and of "back", which is resumed, the first block was found in the prefix cache.
    assert plan.new_blocks == [100, 101, 101, 102, 103, 1, 2, 3, 4, 6, 7, 8, 9]
    assert [(spec.request_id, spec.blocks) for spec in plan.saves] == [("known", [8, 9])], "after a stranger, too"


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 1))), st.integers(1, 2))
def test_a_block_is_known_to_be_absent_when_neither_it_nor_a_later_one_is_there(
    there: set[tuple[int, int]], ranks: int
) -> None:
    shards = tuple(f"{r}of{ranks}" for r in range(ranks))
    rig = Rig(shards=shards)
    prompt = list(range(5 * BS))
    digests = BlockChain(NS, BS).extend(prompt)
    there = {(block, rank) for block, rank in there if rank < ranks}
    for block, rank in there:
        rig.transport.store[block_key(NS, shards[rank], digests[block])] = b""
    req = request(5 * BS)
    rig.side.match(req, 0)
    rig.side.plan(step(req, [0], 0, BS))
    for block in range(1, 5):
        saves = rig.side.plan(more(req, [block], block * BS, BS)).saves
        hit = all((earlier, rank) in there for earlier in range(block + 1) for rank in range(ranks))
        absent = not any(later >= block for later, _ in there)
        assert [spec.absent for spec in saves] == ([] if hit else [absent])


def late_failure(rig: Rig, rid: str, prompt: list[int], local: int, seconds: float) -> None:
    """Have a load of a prompt's blocks beyond the local ones fail, after some time, because a call was late."""
    rig.stock(prompt)
    asking = FakeRequest(rid, prompt)
    claimed = rig.side.match(asking, local)
    assert claimed
    rig.side.allocated(asking, list(range((local + claimed) // BS)), claimed)
    rig.clock.now += seconds
    rig.side.load_finished(rid, False, late=True)
    rig.side.finished(asking)


def test_behind_a_block_that_is_left_alone_nothing_is_known() -> None:
    rig = Rig(request_timeout_ms=100)
    rig.clock.now = 0
    prompt = list(range(3 * BS + 1))
    late_failure(rig, "slow", prompt, BS, 0.5)
    req = FakeRequest("r", prompt)
    assert rig.side.match(req, 0) == BS, "the first block was not part of that load"
    rig.side.allocated(req, [0], BS)
    rig.side.load_finished("r", ok=True)
    (spec,) = rig.side.plan(step(req, [0, 1, 2, 3], BS, 2 * BS + 1)).saves
    assert (spec.blocks, spec.absent) == ([1, 2], False)


def test_the_pause_begins_and_ends_at_its_time_for_each_load() -> None:
    rig = Rig(request_timeout_ms=2000, retry_failed_ms=30000)
    one, other = ([start] * 9 for start in (1, 2))
    late_failure(rig, "one", one, 0, 2.0)
    late_failure(rig, "other", other, 0, 0.5)

    def claims(prompt: list[int]) -> int:
        asking = FakeRequest("again", prompt)
        claimed = rig.side.match(asking, 0)
        rig.side.finished(asking)
        return claimed

    assert [claims(prompt) for prompt in (one, other)] == [0, 0]
    rig.clock.now = 102 + 29.98
    assert claims(one) == 0
    rig.clock.now = 102 + 30
    assert [claims(prompt) for prompt in (one, other)] == [8, 0]


def test_logs_hold_no_prompt(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    secret = [987_654_321] * 10
    rig.stock(secret)
    with caplog.at_level(logging.DEBUG):
        rig.side.match(FakeRequest("r", secret), 0)
    assert caplog.messages == ["request r: 8 of 10 tokens found"]
    assert "987654321" not in caplog.text


def test_blocks_whose_load_had_a_late_call_are_left_alone_for_a_while() -> None:
    rig = Rig(request_timeout_ms=2000, retry_failed_ms=30000)
    rig.stock(list(range(20)))

    def load(rid: str, count: int, seconds: float, ok: bool, late: bool = False) -> int:
        asking = request(count, rid)
        claimed = rig.side.match(asking, 0)
        if claimed:
            rig.side.allocated(asking, list(range(claimed // BS)), claimed)
            rig.clock.now += seconds
            rig.side.load_finished(rid, ok, late)
        rig.side.finished(asking)
        return claimed

    assert load("queued", 9, 9.5, ok=False) == 8
    assert load("again", 9, 5.0, ok=True) == 8, "a queue, a long step and a slow success change nothing"
    assert load("slow", 9, 2.0, ok=False, late=True) == 8
    assert load("same", 9, 0, ok=True) == 0
    assert load("longer", 20, 0, ok=True) == 0, "a load begins at the first block"
    rig.clock.now += 30
    assert load("later", 20, 0, ok=True) == 16
    assert load("slow again", 20, 2.0, ok=False, late=True) == 16
    rig.clock.now += 31
    assert load("other", 9, 2.0, ok=False, late=True) == 8
    assert len(rig.side._lookups._avoided) == 2, "what has passed is not kept"


def test_with_a_pause_of_zero_a_slow_failure_is_tried_again_at_once() -> None:
    rig = Rig(request_timeout_ms=2000, retry_failed_ms=0)
    rig.stock(list(range(9)))
    for rid in ("a", "b"):
        asking = request(9, rid)
        assert rig.side.match(asking, 0) == 8
        rig.side.allocated(asking, [0, 1], 8)
        rig.clock.now += 3
        rig.side.load_finished(rid, False, late=True)


def test_the_null_block_of_a_sliding_window_is_not_saved() -> None:
    rig = Rig()
    req = request(18)
    rig.side.match(req, 3 * BS)
    digests = BlockChain(NS, BS).extend(list(range(18)))
    plan = rig.side.plan(step(req, [0, 0, 7, 8, 9], 3 * BS, 6))
    assert plan.saves == [SaveSpec("r", digests[2:4], [7, 8], absent=True)]
    req = request(18, "q")
    rig.side.match(req, 2 * BS)
    assert not rig.side.plan(step(req, [0, 0, 7, 8, 9], 2 * BS, 0)).saves


def test_a_mistake_in_one_requests_save_hides_no_block_of_another(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    one, two = request(10, "one"), request(10, "two")
    rig.side.match(one, 0)
    rig.side.match(two, 0)
    first = Output({"one": 6}, [New("one", ([1, 2],)), New("two", ([3, 4],))])  # the second one's tokens are missing
    assert rig.side.plan(first).new_blocks == [1, 2, 3, 4]
    later = Output({"one": 4, "two": 4}, [], Cached(["one", "two"], [False, False], [([5],), ([6],)], [6, 4]))
    plan = rig.side.plan(later)
    assert plan.new_blocks == [5, 6]
    assert not plan.saves, "nobody knows any more which blocks they have"
    assert caplog.messages == ["saves were not planned"]


def test_what_was_not_asked_is_not_known_to_be_absent() -> None:
    rig = Rig(shards=tuple(f"{rank}of8" for rank in range(8)))
    prompt = list(range(3000 * BS))
    digests = BlockChain(NS, BS).extend(prompt)
    for digest in digests[2000:]:
        for shard in rig.shards:
            rig.transport.store[block_key(NS, shard, digest)] = b""
    req = FakeRequest("r", prompt)
    assert rig.side.match(req, 0) == 0
    assert rig.transport.calls == [("exist", 8000)], "a prompt that is not there costs one call"
    assert rig.side._tracked["r"].absent_from is None
    rig.stock(prompt)
    rig.clock.now += 10
    assert rig.side.match(req, 0) == 3000 * BS - BS
    assert [count for _, count in rig.transport.calls[1:]] == [8000, 8000, 8000]


def test_blocks_that_were_generated_since_the_lookup_are_not_known_to_be_absent() -> None:
    rig = Rig(save_output=True)
    req = request(10)
    rig.side.match(req, 0)
    assert rig.side.plan(step(req, [1, 2, 3], 0, 10)).saves[0].absent
    req.output = [7, 8]
    (spec,) = rig.side.plan(more(req, [], 10, 2)).saves
    assert (spec.blocks, spec.absent) == ([3], False), "another engine may have generated the same"


def waiting(rig: Rig, *requests: FakeRequest) -> list[str]:
    """Admit requests; return the ids of those that have to wait for the next step."""
    return [each.request_id for each in rig.side.admit(requests)]


def keys_asked(rig: Rig) -> int:
    return sum(count for op, count in rig.transport.calls if op == "exist")


def test_all_that_wait_are_looked_up_together_and_a_match_asks_no_more() -> None:
    rig = Rig()
    rig.stock(list(range(10)))
    every = [request(10, f"r{number}") for number in range(5)]
    assert waiting(rig, *every) == []
    assert rig.asked() == 1
    assert [rig.side.match(each, 0) for each in every] == [2 * BS] * 5
    assert rig.asked() == 1


@pytest.mark.parametrize(
    "other",
    [
        {"status": Status("WAITING_FOR_REMOTE_KVS")}, {"status": Status("PREEMPTED")}, {"num_computed_tokens": 1},
        {"pooling_params": object(), "sampling_params": None}, {"output": [1]},
    ],
)  # fmt: skip
def test_who_has_begun_or_cannot_load_is_passed_over_and_keeps_nobody_back(other: dict[str, Any]) -> None:
    rig = Rig()
    rig.stock(list(range(10)))
    passed_over, asked = request(10, "other", **other), request(10, "r")
    for _ in range(2):  # in the first step and, known by then, in the next
        assert waiting(rig, passed_over, asked) == []
        assert keys_asked(rig) == 2
        rig.side.plan(Output())
    assert rig.side.match(asked, 0) == 2 * BS
    assert keys_asked(rig) == 2
    assert waiting(rig, passed_over, request(10, "late")) == []
    assert keys_asked(rig) == 4, "whoever comes behind is looked up"


def test_without_loading_nobody_is_looked_up_and_nobody_waits() -> None:
    rig = Rig(load=False)
    assert waiting(rig, *(request(10, f"r{number}") for number in range(3))) == []
    assert rig.asked() == 0


def test_a_lookup_beside_another_asks_again_only_for_those_that_can_still_load() -> None:
    rig = Rig(lookup_cache_ms=1000)
    first, second = request(10, "first"), request(10, "second")
    assert waiting(rig, first, second) == []
    rig.side.plan(Output())
    rig.clock.now += 2
    waiting(rig, first, second)
    assert rig.side.match(second, 0) == 0
    assert keys_asked(rig) == 8, "both are asked about again, in one call"
    rig.side.finished(first)
    rig.side.plan(Output())
    rig.clock.now += 10
    waiting(rig, second)
    assert rig.side.match(second, 0) == 0
    assert keys_asked(rig) == 10
