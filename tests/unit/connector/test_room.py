"""A DataSystem without room costs one timeout, and then pauses; what fits is found again from one block up."""

from __future__ import annotations

import itertools

import pytest
from yuanrong.transport import room as room_module
from yuanrong.transport.base import ERROR, FULL
from yuanrong.transport.room import Room

BLOCK = 100


class Pool:
    """Takes so many blocks at a time; a call that finds no room takes some seconds."""

    def __init__(self, fits: int, limit: int = 64, seconds: float = 2.0) -> None:
        self.now, self.fits, self.seconds, self.calls = 0.0, fits, seconds, [0][1:]
        self.room = Room(limit * BLOCK, 2.0, 1.0, lambda: self.now)

    def put(self, count: int = 64) -> tuple[list[int], list[str | None]]:
        """Put blocks; returns the sizes of the calls, and the causes."""
        self.calls = []

        def call(part: slice) -> list[str | None]:
            size = part.stop - part.start
            self.calls.append(size)
            if size > self.fits:
                self.now += self.seconds
                return [FULL] * size
            return [None] * size

        causes = self.room.put(count, BLOCK, 1000, call)
        return self.calls, causes


def test_where_there_is_room_all_goes_in_calls_of_the_largest_size() -> None:
    pool = Pool(fits=64)
    assert pool.put(130) == ([64, 64, 2], [None] * 130)


def test_a_full_pool_costs_one_call_and_then_pauses_that_double() -> None:
    pool = Pool(fits=0)
    assert pool.put()[0] == [64]
    for pause in (2, 4, 8, 16, 16):
        assert pool.put() == ([], [FULL]), "no call at all"
        pool.now += pause - 0.1
        assert pool.put()[0] == []
        pool.now += 0.1
        assert pool.put()[0] == [1]


def test_calls_that_fail_at_once_may_find_the_size_that_fits() -> None:
    pool = Pool(fits=3, seconds=0)
    calls, causes = pool.put(10)
    assert causes == [None] * 10
    assert calls[:2] == [10, 1]
    assert all(size <= 5 for size in calls[1:])


def test_one_put_spends_no_more_than_its_budget_on_calls_without_room() -> None:
    pool = Pool(fits=1, seconds=0.6)
    calls, causes = pool.put(64)
    assert calls == [64, 1, 2]
    assert causes == [None, FULL, FULL]
    assert pool.put()[0] == [], "and then it pauses"


def test_after_a_pause_it_begins_with_one_block_and_grows_again() -> None:
    pool = Pool(fits=0)
    pool.put()
    pool.now += 2
    pool.put()
    pool.fits = 64
    pool.now += 4
    assert pool.put(200)[0] == [1, 2, 4, 8, 16, 32, 64, 64, 9]


def test_the_pause_is_short_again_after_a_success() -> None:
    pool = Pool(fits=0)
    for pause in (2, 4, 8):
        pool.put()
        pool.now += pause
    pool.fits = 64
    pool.put(1)
    pool.fits = 0
    pool.put()
    pool.now += 2
    assert pool.put()[0] == [1]


def test_a_size_that_did_not_fit_is_tried_again_after_many_calls_and_then_after_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room_module, "_PATIENCE", 10)
    pool = Pool(fits=32, seconds=0)
    sizes = [size for _ in range(40) for size in pool.put(64)[0]]
    tries = [position for position, size in enumerate(sizes) if size == 64]
    assert tries[0] == 0
    assert len(tries) >= 2
    gaps = [later - sooner for sooner, later in itertools.pairwise(tries)]
    assert gaps[0] > 10
    assert gaps == sorted(gaps)


def test_another_failure_ends_the_put_and_starts_no_pause() -> None:
    room = Room(6400, 2.0, 1.0, lambda: 0.0)
    assert room.put(3, BLOCK, 1, lambda part: [ERROR if part.start else None]) == [None, ERROR]
    assert room.put(1, BLOCK, 1, lambda part: [None]) == [None]


def test_a_block_larger_than_a_call_goes_alone() -> None:
    pool = Pool(fits=1, limit=0)
    assert pool.put(3) == ([1, 1, 1], [None] * 3)
