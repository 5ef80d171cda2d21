# ruff: noqa: D102 - stand-ins are named and shaped like what they stand in for
"""What a step may ask of the DataSystem, counted in calls and keys."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from yuanrong.keys import BlockChain, block_key
from yuanrong.lookups import KEYS_PER_CALL, REPEAT_KEYS, REPEATS_PER_STEP
from yuanrong.scheduler import TOKENS_PER_STEP
from yuanrong.transport.base import UNAVAILABLE, Presence

from tests.unit.connector.fakes import FakeRequest, MemoryTransport, Output, Sampling, Status
from tests.unit.connector.test_scheduler import BS, NS, Rig, loading


def waiting(number: int, blocks: int = 2, **more: Any) -> list[FakeRequest]:
    """Return requests with prompts of their own, of so many full blocks and a token."""
    return [FakeRequest(f"q{i}", [i] * (blocks * BS + 1), **more) for i in range(number)]


def calls(rig: Rig) -> list[int]:
    """Return the keys of each call since the last look."""
    counts = [count for op, count in rig.transport.calls if op == "exist"]
    rig.transport.calls.clear()
    return counts


def step(rig: Rig, queue: list[FakeRequest]) -> tuple[list[int], list[FakeRequest]]:
    """Run a step of a scheduler that considers all that it may; return what was claimed and what was kept out."""
    held = rig.side.admit(queue)
    claimed = [rig.side.match(each, 0) for each in queue if each not in held]
    rig.side.plan(Output())
    return claimed, held


def test_requests_that_come_together_are_looked_up_in_one_call() -> None:
    rig = Rig()
    queue = waiting(200)
    rig.stock(queue[1].prompt_token_ids)
    rig.stock(queue[150].prompt_token_ids, 1)
    claimed, held = step(rig, queue)
    assert calls(rig) == [400]
    assert not held
    assert {i: claim for i, claim in enumerate(claimed) if claim} == {1: 8, 150: 4}
    assert step(rig, queue)[0] == claimed
    assert calls(rig) == [], "the answers hold for a while"


def test_one_that_comes_later_is_asked_about_alone() -> None:
    rig = Rig()
    queue = waiting(3)
    step(rig, queue[:2])
    calls(rig)
    step(rig, queue)
    assert calls(rig) == [2]


def test_what_one_call_has_no_room_for_waits_for_the_next_step_in_its_order() -> None:
    rig = Rig(shards=tuple(f"{rank}of8" for rank in range(8)))
    queue = waiting(9, 250)  # 2000 keys each
    assert [each.request_id for each in step(rig, queue)[1]] == ["q4", "q5", "q6", "q7", "q8"]
    assert calls(rig) == [KEYS_PER_CALL]
    assert [each.request_id for each in step(rig, queue)[1]] == ["q8"]
    assert step(rig, queue)[1] == []
    assert calls(rig) == [KEYS_PER_CALL, 2000]


def test_a_step_names_the_blocks_of_so_many_tokens_and_no_more() -> None:
    rig = Rig(size=128)
    queue = [FakeRequest(f"q{i}", [i] * (TOKENS_PER_STEP // 2)) for i in range(5)]
    assert [len(rig.side.admit(queue)), len(rig.side._tracked)] == [3, 2]


def test_a_prompt_beyond_every_budget_is_not_kept_out_for_ever() -> None:
    rig = Rig()
    longest = FakeRequest("long", [1] * (TOKENS_PER_STEP * 2))
    other = FakeRequest("other", [2] * 9)
    rig.stock(longest.prompt_token_ids)
    claimed, held = step(rig, [longest, other])
    assert claimed == [2 * TOKENS_PER_STEP - BS]
    assert held == [other]
    assert calls(rig) == [KEYS_PER_CALL] * 4 + [2 * TOKENS_PER_STEP // BS - 4 * KEYS_PER_CALL]
    assert step(rig, [longest, other])[1] == []


def test_requests_behind_the_first_one_kept_out_keep_their_place() -> None:
    rig = Rig()
    first, second, small, loaded, resumed, formed = waiting(6)
    second.prompt_token_ids = [1] * TOKENS_PER_STEP
    loaded.num_computed_tokens = 4
    resumed.status = Status("PREEMPTED")
    formed.status = Status("WAITING_FOR_FSM")
    assert rig.side.admit([loaded, resumed, first, second, small, formed]) == [second, small, formed]
    assert rig.side.admit([second]) == []
    assert rig.side.admit([first, second, FakeRequest("x", [1] * TOKENS_PER_STEP), small]) == [small]


@pytest.mark.parametrize(
    "change",
    [{"pooling_params": object()}, {"sampling_params": Sampling(prompt_logprobs=1)}, {"num_encoder_inputs": 1}],
)
def test_what_is_never_looked_up_takes_no_room(change: dict[str, Any]) -> None:
    rig = Rig()
    assert step(rig, waiting(20, 2, **change))[1] == []
    assert calls(rig) == []


def test_an_engine_that_does_not_load_asks_nothing_and_keeps_nothing_out() -> None:
    rig = Rig(load=False)
    assert step(rig, [FakeRequest(f"q{i}", [i] * TOKENS_PER_STEP) for i in range(3)])[1] == []
    assert calls(rig) == []


def test_old_answers_are_renewed_a_few_in_a_step_and_serve_meanwhile() -> None:
    rig = Rig()
    queue = waiting(9, REPEAT_KEYS // 2 + 1)  # no two fit into one call
    for each in queue:
        rig.stock(each.prompt_token_ids, 1)
    while step(rig, queue)[1]:
        pass
    calls(rig)
    rig.transport.store.clear()
    rig.clock.now += 1
    for renewed in (REPEATS_PER_STEP, 2 * REPEATS_PER_STEP, 9, 9):
        claimed, held = step(rig, queue)
        assert claimed == [0] * renewed + [BS] * (9 - renewed)
        assert not held
    assert calls(rig) == [REPEAT_KEYS // 2 + 1] * 9


def test_a_renewed_answer_takes_its_neighbours_along() -> None:
    rig = Rig()
    queue = waiting(REPEAT_KEYS, 2)
    while step(rig, queue)[1]:
        pass
    calls(rig)
    rig.clock.now += 0.5
    late = waiting(1, 5)[0]
    late.request_id = "late"
    step(rig, [late, *queue])
    rig.clock.now += 0.5
    gone, begun = queue[3], loading(rig, rid="begun")
    rig.side.load_finished("begun", ok=True)
    rig.side.finished(gone)
    calls(rig)
    step(rig, [late, begun, *(each for each in queue if each is not gone)])
    assert calls(rig) == [REPEAT_KEYS, 2 * (REPEAT_KEYS - 1) - REPEAT_KEYS], "none of them twice, the young one not"


def test_an_answer_that_stays_the_same_is_renewed_at_growing_intervals() -> None:
    rig = Rig()
    (req,) = waiting(1)
    asked = []
    for tick in range(60):
        rig.clock.now = 100 + tick / 2
        if tick == 51:
            rig.stock(req.prompt_token_ids)
        step(rig, [req])
        asked += [tick / 2] * len(calls(rig))
    assert asked == [0, 1, 3, 7, 15, 23]
    rig.clock.now = 131
    step(rig, [req])
    assert len(calls(rig)) == 1, "and found something new"
    rig.clock.now = 132
    step(rig, [req])
    assert len(calls(rig)) == 1


class Slow(MemoryTransport):
    """Each call takes some time of the rig's clock."""

    def __init__(self, rig: Rig, seconds: float) -> None:
        super().__init__(rig.transport.store)
        self.rig, self.seconds = rig, seconds

    def exist(self, keys: Any) -> Presence:
        answer = super().exist(keys)
        self.rig.clock.now += self.seconds
        return answer


def slow(seconds: float, **extra: Any) -> Rig:
    rig = Rig(**extra)
    rig.transport = rig.side._lookups._transport = Slow(rig, seconds)
    return rig


def test_one_lookup_has_its_timeout_however_many_calls_it_is_of() -> None:
    rig = slow(0.2, lookup_timeout_ms=500)
    prompt = [1] * (5 * KEYS_PER_CALL * BS + 1)
    rig.stock(prompt)
    req = FakeRequest("r", prompt)
    assert rig.side.match(req, 0) == 2 * KEYS_PER_CALL * BS, "what was found counts"
    assert calls(rig) == [KEYS_PER_CALL, KEYS_PER_CALL], "a third one could end at 0.6 s"
    assert rig.side._tracked["r"].absent_from is None


def test_when_a_steps_lookups_have_had_their_timeout_old_answers_have_to_do() -> None:
    rig = slow(0.3, lookup_timeout_ms=500)
    queue = waiting(5, REPEAT_KEYS // 2 + 1)
    step(rig, queue)
    rig.clock.now += 1
    calls(rig)
    for _ in range(3):
        step(rig, queue)
        assert len(calls(rig)) <= 2


def test_an_outage_keeps_nobody_out_and_is_not_asked_about_again_at_once() -> None:
    rig = Rig()
    rig.transport.fault = lambda op, key: UNAVAILABLE
    queue = waiting(300)
    assert step(rig, queue) == ([0] * 300, [])
    step(rig, queue)
    assert len(calls(rig)) == 1


def test_a_transport_that_answers_in_part_leaves_the_rest_unknown() -> None:
    rig = Rig()
    prompt = [1] * (6 * BS + 1)
    rig.stock(prompt)
    whole = rig.transport.exist
    rig.transport.exist = lambda keys: Presence(whole(keys[:2]).found + [False] * (len(keys) - 2), asked=2)  # type: ignore[method-assign]
    assert rig.side.match(FakeRequest("r", prompt), 0) == 2 * BS
    assert rig.side._tracked["r"].absent_from is None


def test_a_lookup_that_breaks_keeps_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()

    def explode(op: str, key: str) -> str | None:
        raise RuntimeError("boom")

    rig.transport.fault = explode
    with caplog.at_level(logging.ERROR):
        assert step(rig, waiting(3)) == ([0, 0, 0], [])
        step(rig, waiting(3))
    assert set(caplog.messages) == {"waiting requests were not looked up together"}


def test_every_rank_counts_when_several_requests_are_asked_about_together() -> None:
    rig = Rig(shards=("0of2", "1of2"))
    queue = waiting(3)
    rig.stock(queue[0].prompt_token_ids, 1)
    rig.stock(queue[1].prompt_token_ids, 2, ("1of2",))
    rig.stock(queue[2].prompt_token_ids)
    chain = BlockChain(NS, BS).extend(queue[2].prompt_token_ids)
    del rig.transport.store[block_key(NS, "1of2", chain[1])]
    assert step(rig, queue)[0] == [4, 0, 4]
    assert [rig.side._tracked[f"q{i}"].absent_from for i in range(3)] == [1, 2, 2]
