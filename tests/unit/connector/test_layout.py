"""Every form of KV cache that vLLM registers becomes address ranges; any other is refused."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yuanrong.layout import KVLayout, LayoutError

from tests.unit.connector.fakes import Device, FakeTensor, read_block, write_block

B, S, H, D = 5, 4, 2, 8


def pair(*shape: int, **more: Any) -> tuple[FakeTensor, FakeTensor]:
    return FakeTensor(shape, **more), FakeTensor(shape, **more)


FORMS: dict[str, tuple[Any, bool, int]] = {
    "ascend K and V": (lambda: pair(B, S, H, D), False, 2 * S * H * D * 2),
    "ascend int8": (lambda: pair(B, S, H * D, itemsize=1), False, 2 * S * H * D),
    "ascend mla": (lambda: (FakeTensor((B, S, 1, 16)), FakeTensor((B, S, 1, 4))), True, S * 20 * 2),
    "mla, one tensor": (lambda: FakeTensor((B, S, 20)), True, S * 20 * 2),
    "vllm cpu": (lambda: FakeTensor((2, B, S * H * D)), False, 2 * S * H * D * 2),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_every_known_form_gives_whole_blocks(form: str) -> None:
    make, mla, size = FORMS[form]
    layout = KVLayout.from_caches({f"model.layers.{i}.attn": make() for i in range(3)}, mla=mla)
    assert layout.num_blocks == B
    assert layout.block_bytes == 3 * size
    covered = sorted(r for b in range(B) for r in layout.ranges(b))
    assert all(a + n <= b for (a, n), (b, _) in pairwise(covered)), "ranges overlap"
    inside = [(t.data_ptr(), t.data_ptr() + len(t.memory)) for t in layout.tensors]
    assert all(any(lo <= a and a + n <= hi for lo, hi in inside) for a, n in covered), "a range is outside"
    assert sum(n for _, n in covered) == sum(len(t.memory) for t in layout.tensors)


@given(st.lists(st.integers(0, B - 1), max_size=8), st.sampled_from(sorted(FORMS)))
def test_writing_one_block_leaves_all_others_alone(order: list[int], form: str) -> None:
    make, mla, _ = FORMS[form]
    layout = KVLayout.from_caches({"l.0": make(), "l.1": make()}, mla=mla)
    want = {b: bytes(layout.block_bytes) for b in range(B)}
    for turn, block in enumerate(order):
        want[block] = bytes((turn * 7 + i) % 251 for i in range(layout.block_bytes))
        write_block(layout, block, want[block])
    assert {b: read_block(layout, b) for b in range(B)} == want


def test_layers_are_ordered_by_number_whatever_the_dictionarys_order() -> None:
    tensors = {f"layers.{i}": FakeTensor((2, B, 8)) for i in (10, 9, 0, 1)}
    layout = KVLayout.from_caches(tensors)
    assert [t.data_ptr() for t in layout.tensors] == [tensors[f"layers.{i}"].data_ptr() for i in (0, 1, 9, 10)]
    mixed = {name: FakeTensor((2, B, 8)) for name in ("x.1", "1.x")}
    assert KVLayout.from_caches(mixed).tensors == (mixed["1.x"], mixed["x.1"]), "numbers before words"


def test_a_shared_layer_is_stored_once() -> None:
    shared = pair(B, S, H, D)
    layout = KVLayout.from_caches({"l.0": shared, "l.1": shared, "l.2": pair(B, S, H, D)})
    assert len(layout.segments) == 4, "and the next one follows"


def test_blocks_with_gaps_between_them_are_fine() -> None:
    tensor = FakeTensor((B, S, H, D), strides=(S * H * D + 32, H * D, D, 1))
    layout = KVLayout.from_caches({"l.0": (tensor, FakeTensor((B, S, H, D)))})
    assert layout.segments[0].stride == (S * H * D + 32) * 2
    assert layout.segments[0].size == S * H * D * 2


def test_the_stride_of_an_axis_with_one_element_says_nothing() -> None:
    tensor = FakeTensor((B, S, 1, D), strides=(S * D, D, 999, 1))
    assert KVLayout.from_caches({"l.0": (tensor,)}).block_bytes == S * D * 2


@pytest.mark.parametrize(
    ("caches", "message"),
    [
        ({}, "^no KV cache was registered$"),
        ({"l.0": FakeTensor((B, S))}, "unknown"),
        ({"l.0": FakeTensor((3, B, S, H))}, "unknown"),
        (
            {"l.0": (FakeTensor((B, S, H, D), strides=(S * H * D, D, S * D, 1)),)},
            r"^l\.0: a block of shape \[4, 2, 8\] is not contiguous",
        ),
        ({"l.0": FakeTensor((2, B, S), strides=(99, 9, 2))}, r"^l\.0: a block of shape \[4\] is not contiguous"),
        ({"l.0": FakeTensor((B, 2, S, D))}, "unknown"),
        ({"l.0": (FakeTensor((B, S, H, D), strides=(8, H * D, D, 1)),)}, "overlap"),
        ({"l.0": pair(B, S, H, D), "l.1": pair(B + 1, S, H, D)}, "number of blocks"),
        ({"l.0": pair(B, S, H, D), "l.1": pair(B, S, H, D, device=Device("npu", 1))}, "several devices"),
    ],
)
def test_anything_else_is_refused_with_its_reason(caches: dict[str, Any], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        KVLayout.from_caches(caches)


def test_a_block_outside_the_cache_is_refused() -> None:
    layout = KVLayout.from_caches({"l.0": pair(B, S, H, D)})
    for block in (-1, B):
        with pytest.raises(LayoutError, match=rf"^block {block} is not in 0\.\.4$"):
            layout.ranges(block)


def test_fingerprints_agree_only_for_one_inner_form() -> None:
    def fingerprint(caches: dict[str, Any], mla: bool = False) -> bytes:
        return KVLayout.from_caches(caches, mla=mla).fingerprint

    base = fingerprint({"a.0": pair(B, S, H, D)})
    assert base == fingerprint({"b.0": pair(B + 4, S, H, D)}), "neither names nor the number of blocks matter"
    others = [
        fingerprint({"a.0": pair(B, S, H, D), "a.1": pair(B, S, H, D)}),
        fingerprint({"a.0": pair(B, S, H, D, dtype="fp16")}),
        fingerprint({"a.0": pair(B, S, D, H)}),
        fingerprint({"a.0": pair(B, S, H, D, itemsize=1)}),
        fingerprint({"a.0": FakeTensor((B, S, 2 * H * D))}, mla=True),
    ]
    assert len({base, *others}) == 6


@pytest.mark.parametrize("form", list(FORMS))
def test_engines_with_more_and_less_memory_share_blocks(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, mla, _ = FORMS[form]
    few = KVLayout.from_caches({"l.0": make()}, mla=mla)
    monkeypatch.setattr(sys.modules[__name__], "B", B + 4)
    more = KVLayout.from_caches({"l.0": make()}, mla=mla)
    assert (few.num_blocks, more.num_blocks) == (5, 9)
    assert few.fingerprint == more.fingerprint


def test_the_fingerprint_never_changes() -> None:
    """Stored objects carry it: another value means that they are not loaded any more."""
    layout = KVLayout.from_caches({"l.0": pair(B, S, H, D), "l.1": pair(B, S, H, D)})
    assert layout.fingerprint.hex() == "b32a984add219ee7836614bd66a2c2b5"


def test_the_device_is_the_tensors() -> None:
    layout = KVLayout.from_caches({"l.0": pair(B, S, H, D, device=Device("npu", 3))})
    assert (layout.device_type, layout.device_index) == ("npu", 3)
    layout = KVLayout.from_caches({"l.0": pair(B, S, H, D)})
    assert (layout.device_type, layout.device_index) == ("cpu", 0)
