"""The device itself: its own memory, and the order of what is queued on it."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import pytest
import torch
import torch_npu
from torch_npu._library import library

pytestmark = pytest.mark.emulated
NPU = "npu:0"


def seen(tensor: Any) -> Any:
    """What the copy engine sees of a tensor when this thread submits the copy."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    library.emulated_npu_read(tensor.data_ptr(), copy.numel() * copy.element_size(), copy.data_ptr())
    return copy


def write(cache: Any, slot: int, number: float) -> None:
    new = torch.full((1, *cache.shape[2:]), number).to(NPU)
    slots = torch.tensor([slot], dtype=torch.int32).to(NPU)
    torch_npu._npu_reshape_and_cache(key=new, value=new, key_cache=cache, value_cache=cache, slot_indices=slots)


def in_a_thread(work: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_a_tensor_that_stayed_on_the_host_is_refused() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2).to(NPU) + torch.ones(2)
    with pytest.raises(RuntimeError, match="same device"):
        torch.nn.functional.linear(torch.ones(1, 2).to(NPU), torch.ones(2, 2))


def test_views_share_memory_and_copies_do_not() -> None:
    whole = torch.zeros(4, 4).to(NPU)
    whole[1:3, 2].fill_(7)
    whole.t().unfold(0, 2, 1)[0, 0].add_(1)
    copy = whole.clone()
    whole.zero_()
    assert copy.cpu()[1, 2] == 7
    assert copy.cpu()[0, :2].tolist() == [1, 1]
    assert not whole.cpu().any()


def test_every_operator_gives_what_the_cpu_gives() -> None:
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    for work in (
        lambda t: t.softmax(-1), lambda t: t.topk(3)[1], lambda t: t @ t.t(), lambda t: t.sort(descending=True)[0],
        lambda t: t[t.argmax(0)], lambda t: t.masked_fill(t > 0, 2.0), lambda t: torch.cat([t, t]).cumsum(0),
        lambda t: t.bfloat16().float(), lambda t: torch.where(t > 0, t, -t).max(1)[0], lambda t: t.split([2, 4], 1)[1],
    ):  # fmt: skip
        assert torch.equal(work(x.to(NPU)).cpu(), work(x))  # type: ignore[no-untyped-call]


def test_memory_is_counted_and_ends() -> None:
    before = torch.npu.memory_allocated()
    some = torch.empty(1 << 20, dtype=torch.uint8, device=NPU)
    assert torch.npu.memory_allocated() - before == 1 << 20
    assert torch.npu.mem_get_info()[0] == torch.npu.mem_get_info()[1] - torch.npu.memory_allocated()
    del some
    assert torch.npu.memory_allocated() == before
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(torch.npu.mem_get_info()[1] + 1, dtype=torch.uint8, device=NPU)


def test_there_are_as_many_devices_as_said() -> None:
    with torch.npu.device(1):
        assert torch.npu.current_device() == 1
    assert torch.npu.current_device() == 0
    with pytest.raises(RuntimeError, match="invalid NPU"):
        torch.npu.set_device(torch.npu.device_count())


def test_the_same_seed_gives_the_same_numbers_as_the_cpu() -> None:
    here = torch.rand(4, generator=torch.Generator(device=NPU).manual_seed(5), device=NPU)
    assert torch.equal(here.cpu(), torch.rand(4, generator=torch.Generator().manual_seed(5)))


def test_a_copy_that_does_not_wait_sees_the_old_bytes() -> None:
    cache = torch.zeros(2, 4, 1, 8).to(NPU)
    write(cache, 5, 1.0)
    assert seen(cache).sum() == 0
    torch.npu.synchronize()
    assert seen(cache).sum() == 8
    assert in_a_thread(lambda: seen(cache)).sum() == 0, "that this thread waited tells another thread nothing"


def test_an_event_shows_what_was_queued_before_it_and_not_what_came_after() -> None:
    cache = torch.zeros(2, 4, 1, 8).to(NPU)
    write(cache, 5, 1.0)
    event = torch.npu.Event()
    event.record(torch.npu.current_stream())
    write(cache, 5, 2.0)
    write(cache, 6, 3.0)

    def look() -> Any:
        event.synchronize()
        return seen(cache)

    assert in_a_thread(look).view(8, 8)[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


def test_an_event_that_was_not_recorded_waits_for_nothing() -> None:
    cache = torch.zeros(2, 4, 1, 8).to(NPU)
    write(cache, 1, 1.0)

    def look() -> Any:
        torch.npu.Event().synchronize()
        return seen(cache)

    assert in_a_thread(look).sum() == 0


def test_reading_a_result_on_the_host_waits_for_the_device() -> None:
    cache = torch.zeros(2, 4, 1, 8).to(NPU)
    write(cache, 5, 1.0)

    def look() -> Any:
        torch.ones(1).to(NPU).item()
        return seen(cache)

    assert in_a_thread(look).sum() == 8


def test_kernels_see_each_others_writes_in_order() -> None:
    cache = torch.zeros(2, 4, 1, 8).to(NPU)
    write(cache, 5, 1.0)
    assert float((cache * 2).sum()) == 16


def test_a_read_of_a_part_gets_the_old_bytes_of_that_part() -> None:
    cache = torch.zeros(1, 2, 1, 4).to(NPU)
    write(cache, 1, 1.0)
    part = ctypes.create_string_buffer(12)
    stale = in_a_thread(lambda: library.emulated_npu_read(cache.data_ptr() + 12, 12, part))
    assert stale > 0
    assert part.raw == bytes(12)


def test_what_was_read_on_the_host_is_not_what_was_waited_for() -> None:
    cache = torch.zeros(2, 4, 1, 8).to(NPU)
    write(cache, 1, 1.0)
    torch.ones(1).to(NPU).item()
    assert library.emulated_npu_waited() < library.emulated_npu_issued()
    torch.npu.synchronize()
    assert library.emulated_npu_waited() == library.emulated_npu_issued()
