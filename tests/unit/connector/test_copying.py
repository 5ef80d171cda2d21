"""Copies of whole blocks: the same bytes whatever the addresses, and a checksum that is what its definition says."""

from __future__ import annotations

import ctypes
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yuanrong.layout import KVLayout, LayoutError, Segment
from yuanrong.transport.copying import CRC32, NONE, SUM64, BlockCopier, Piece, pieces

from tests.unit.connector.fakes import FakeTensor, read_block, write_block


def arrangement(order: list[int], widths: list[int], gap: int, blocks: int = 3) -> KVLayout:
    """A layout with one tensor per layer, at places in ``order``, ``gap`` bytes apart, in one piece of memory."""
    room = max(widths) * blocks * 2 + gap
    memory = (ctypes.c_ubyte * (room * len(widths) + 16))()
    base = (ctypes.addressof(memory) + 7) // 8 * 8
    segments = []
    for place, width in zip(order, widths, strict=True):
        for plane in (0, 1):
            segments.append(Segment(base + place * room + plane * width * blocks, width, width))
    layout = KVLayout(tuple(segments), blocks, "cpu", 0, b"f" * 16, (memory,))
    for block in range(blocks):
        write_block(layout, block, bytes((block * 91 + i * 7) % 256 for i in range(layout.block_bytes)))
    return layout


def sum64(payload: bytes, sizes: list[int]) -> int:
    """The definition, word by word."""
    value = position = 0
    for size in sizes:
        words = struct.unpack_from(f"<{size // 8}Q", payload, position)
        value = ((value + sum(words)) * 0x9E3779B97F4A7C15 + 1) % 2**64
        position += size
    return value


def runs_of(found: list[Piece]) -> list[tuple[int, int, int]]:
    return [
        (p.base + i * p.step + j * p.inner_step, p.stride, p.size)
        for p in found
        for i in range(p.count)
        for j in range(p.inner)
    ]


layouts = st.integers(1, 6).flatmap(
    lambda n: st.builds(
        arrangement,
        st.permutations(range(n)),
        st.one_of(
            st.sampled_from([8, 16, 24]).map(lambda w: [w] * n),
            st.lists(st.sampled_from([8, 16, 24]), min_size=n, max_size=n),
        ),
        st.sampled_from([0, 8, 40]),
    )
)


@given(layouts, st.integers(1, 400))
def test_pieces_are_exactly_the_runs_in_their_order(layout: KVLayout, max_bytes: int) -> None:
    found = pieces(layout.segments, layout.num_blocks, max_bytes)
    assert runs_of(found) == [(s.base, s.stride, s.size) for s in layout.segments]
    assert all(p.nbytes <= max_bytes or p.runs == 1 for p in found)


@given(layouts, st.sampled_from([NONE, CRC32, SUM64]), st.integers(1, 400), st.integers(0, 9))
def test_blocks_come_back_with_the_checksum_of_the_definition(
    layout: KVLayout, kind: int, chunk_bytes: int, offset: int
) -> None:
    copier = BlockCopier(layout, kind, offset, chunk_bytes)
    before = [read_block(layout, b) for b in range(3)]
    targets = [bytearray(offset + layout.block_bytes + 3) for _ in range(2)]
    checks = copier.copy_out(targets, [2, 0])
    payloads = [bytes(t[offset : offset + layout.block_bytes]) for t in targets]
    assert payloads == [before[2], before[0]]
    assert all(not any(t[:offset]) and not any(t[offset + layout.block_bytes :]) for t in targets)
    sizes = [s.size for s in layout.segments]
    expected = {
        NONE: [0, 0],
        CRC32: [zlib.crc32(p) for p in payloads],
        SUM64: [sum64(p, sizes) for p in payloads],
    }
    assert checks == expected[kind]
    others = [SUM64, CRC32]
    assert copier.copy_in(targets, [1, 2], others) == [expected[SUM64][0], expected[CRC32][1]]
    assert [read_block(layout, b) for b in range(3)] == [before[0], before[2], before[0]]


def test_layers_that_follow_each_other_are_one_copy() -> None:
    assert len(pieces(arrangement([0, 1, 2, 3], [16] * 4, 0).segments, 3)) == 1
    assert len(pieces(arrangement([3, 2, 1, 0], [16] * 4, 8).segments, 3)) == 1
    assert [p.runs for p in pieces(arrangement([0, 1, 2, 3], [16] * 4, 8).segments, 3, 64)] == [4, 4]
    assert [p.runs for p in pieces(arrangement([0, 1, 2], [16, 16, 24], 8).segments, 3)] == [4, 2]


def test_layers_far_apart_are_copied_one_by_one() -> None:
    near, far = Segment(1 << 30, 64, 64), Segment(2 << 30, 64, 64)
    assert [p.runs for p in pieces([near, far], 3)] == [1, 1]
    pair = [near, Segment(near.base + 192, 64, 64), far, Segment(far.base + 192, 64, 64)]
    assert [p.runs for p in pieces(pair, 3)] == [2, 2]


def check_of(layout: KVLayout, payload: bytes) -> int:
    """What the copier says of a payload."""
    return BlockCopier(layout, SUM64).copy_in([payload], [0], [SUM64])[0]


@given(layouts, st.integers(0, 1000), st.integers(1, 255))
def test_sum64_sees_every_flipped_bit(layout: KVLayout, position: int, flip: int) -> None:
    payload = read_block(layout, 1)
    changed = bytearray(payload)
    changed[position % len(payload)] ^= flip
    assert check_of(layout, bytes(changed)) != check_of(layout, payload)


def test_sum64_sees_runs_that_changed_places() -> None:
    layout = arrangement([0], [8], 0)
    assert check_of(layout, b"a" * 8 + b"b" * 8) != check_of(layout, b"b" * 8 + b"a" * 8)


def test_sum64_keeps_its_values() -> None:
    """Objects outlive a process: the numbers are part of the format."""
    layout = KVLayout.from_caches({"l.0": FakeTensor((2, 4, 8)), "l.1": FakeTensor((2, 4, 4))})
    assert [segment.size for segment in layout.segments] == [16, 16, 8, 8]
    payload = bytes(range(32)) + b"\xff" * 16
    assert check_of(layout, payload) == sum64(payload, [16, 16, 8, 8]) == 0x241A70D3671348BE
    with pytest.raises(ValueError, match="buffer"):
        BlockCopier(layout, SUM64).copy_out([bytearray(3)], [0])


@pytest.mark.parametrize("run", [Segment(0, 12, 12), Segment(0, 12, 8), Segment(4, 16, 8)])
def test_runs_of_broken_words_are_refused(run: Segment) -> None:
    with pytest.raises(LayoutError, match="whole words"):
        BlockCopier(KVLayout((run,), 2, "cpu", 0, b"f" * 16), SUM64)
