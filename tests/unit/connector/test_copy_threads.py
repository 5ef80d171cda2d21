"""Copying shared among threads: every item once, in order, and nobody at it when the call returns."""

from __future__ import annotations

import gc
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yuanrong.transport.threads import ITEM_BYTES, SHARE_BYTES, CopyThreads


@given(threads=st.integers(1, 5), count=st.integers(0, 40), item_bytes=st.integers(1, 4 * SHARE_BYTES))
def test_each_item_is_in_one_share_and_shares_are_in_order(threads: int, count: int, item_bytes: int) -> None:
    shares = CopyThreads(threads).share(count, item_bytes, lambda share: list(range(count))[share])
    assert [item for _, items in shares for item in items] == list(range(count))
    assert all(len(items) == share.stop - share.start > 0 for share, items in shares)
    assert len(shares) <= max(1, min(threads, count * item_bytes // SHARE_BYTES))
    assert len(shares) <= 1 or item_bytes >= ITEM_BYTES


def test_shares_are_copied_at_the_same_time() -> None:
    met = threading.Barrier(3, timeout=30)
    shares = CopyThreads(3).share(3, SHARE_BYTES, lambda share: (met.wait(), share)[1])
    assert [share for _, share in shares] == [slice(0, 1), slice(1, 2), slice(2, 3)]


@pytest.mark.parametrize(("count", "item_bytes"), [(3, ITEM_BYTES), (1000, ITEM_BYTES - 1)])
def test_small_batches_and_small_items_wake_nobody(count: int, item_bytes: int) -> None:
    names = CopyThreads(4).share(count, item_bytes, lambda share: threading.current_thread().name)
    assert names == [(slice(0, count), threading.current_thread().name)]


@pytest.mark.parametrize("broken", [0, 1])
def test_a_failure_is_raised_when_no_thread_is_at_it_any_more(broken: int) -> None:
    failed, ended = threading.Event(), []

    def copy(share: slice) -> None:
        if share.start == broken:
            failed.set()
            raise ValueError(f"share {broken}")
        assert failed.wait(30)
        ended.append(share.start)

    with pytest.raises(ValueError, match=f"share {broken}"):
        CopyThreads(2).share(2, SHARE_BYTES, copy)
    assert ended == [1 - broken]


def test_helpers_end_with_the_object() -> None:
    threads = CopyThreads(2)
    helper = threads.share(2, SHARE_BYTES, lambda _: threading.current_thread())[1][1]
    assert helper.is_alive()
    del threads
    gc.collect()
    helper.join(30)
    assert not helper.is_alive()
