# SPDX-License-Identifier: Apache-2.0
"""Copies KV blocks between their place in host memory and one contiguous payload, and sums the bytes on the way.

A block's runs lie at addresses that mostly follow a pattern (K and V planes of a tensor, tensors of equal layers one
after the other). Runs that do are one strided copy, so that Python is paid per piece and not per run. Pieces are
gathered in chunks that are still in the processor's cache when their checksum is taken, so memory is read once.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.lib.stride_tricks import as_strided

from ..layout import KVLayout, LayoutError, Segment

NONE, CRC32, SUM64 = 0, 1, 2  #: kinds of checksum, as they stand in an object's header

#: Bytes of a chunk: source and destination together fill the second-level cache (1 MiB) of one core of today's servers.
CHUNK_BYTES = 512 << 10
#: Runs farther apart than this are not one strided view: numpy would take whatever lies between for an overlap.
_MAX_GAP = 1 << 20
_WORD = 8
_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Piece:
    """Consecutive runs of a block's payload whose addresses are ``base + i * step + j * inner_step``.

    Attributes:
        base: Address of block 0's first run.
        stride: Bytes from one block's run to the next block's.
        size: Bytes of a run.
        count: Number of values of ``i``, the slower index.
        step: Bytes between them.
        inner: Number of values of ``j``.
        inner_step: Bytes between them.
    """

    base: int
    stride: int
    size: int
    count: int = 1
    step: int = 0
    inner: int = 1
    inner_step: int = 0

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.count * self.inner

    @property
    def nbytes(self) -> int:
        """Bytes of one block in this piece."""
        return self.runs * self.size


def pieces(segments: Sequence[Segment], num_blocks: int, max_bytes: int = CHUNK_BYTES) -> list[Piece]:
    """Cut a block's runs into as few pieces as their addresses allow.

    Args:
        segments: The runs, in payload order.
        num_blocks: Blocks in the cache.
        max_bytes: Bytes of a piece, unless a single run is longer.

    Returns:
        Pieces in payload order; their runs are exactly ``segments``.
    """
    pairs: list[Piece] = []
    for segment in segments:
        last = pairs[-1] if pairs else None
        step = 0 if last is None else segment.base - last.base - (last.inner - 1) * last.inner_step
        if (
            last is not None
            and (last.size, last.stride) == (segment.size, segment.stride)
            and (last.inner == 1 or step == last.inner_step)
            and abs(step) <= segment.stride * num_blocks + _MAX_GAP
            and last.nbytes + segment.size <= max_bytes
        ):
            pairs[-1] = Piece(last.base, last.stride, last.size, inner=last.inner + 1, inner_step=step)
        else:
            pairs.append(Piece(segment.base, segment.stride, segment.size))
    merged: list[Piece] = []
    for pair in pairs:
        last = merged[-1] if merged else None
        step = 0 if last is None else pair.base - last.base - (last.count - 1) * last.step
        if (
            last is not None
            and (last.size, last.stride, last.inner) == (pair.size, pair.stride, pair.inner)
            and last.inner_step == pair.inner_step
            and (last.count == 1 or step == last.step)
            and abs(step) <= abs(pair.inner_step) * pair.inner + pair.stride * num_blocks + _MAX_GAP
            and last.nbytes + pair.nbytes <= max_bytes
        ):
            merged[-1] = Piece(
                last.base, last.stride, last.size, last.count + 1, step, last.inner, last.inner_step
            )  # fmt: skip
        else:
            merged.append(pair)
    return merged


@dataclass(frozen=True)
class _Chunk:
    """Neighbouring pieces with runs of one size.

    Attributes:
        parts: Per piece its view of all blocks ``[blocks, count, inner, words]``, and its place in the payload (words).
        start: First word of the payload.
        end: Word after the last.
        first: Number of the first run.
        runs: Number of runs.
    """

    parts: list[tuple[Any, int, int]]
    start: int
    end: int
    first: int
    runs: int

    @property
    def last(self) -> int:
        """Number of the run after the last."""
        return self.first + self.runs


class BlockCopier:
    """Copies whole blocks in and out.

    The checksum ``SUM64`` adds a run's 64-bit words (little endian) and weighs each run by its position: from 0 on,
    ``value = (value + sum of the run) * ODD + 1`` modulo 2^64, run by run. It runs at memory speed, several times as
    fast as a CRC, and finds what happens to objects: truncation, zeroed pages, mixed-up blocks, flipped bits.

    Args:
        layout: Where blocks are; host memory.
        kind: Checksum of what is copied out: ``NONE``, ``CRC32`` or ``SUM64``.
        offset: Where the payload begins in a buffer.
        chunk_bytes: See :data:`CHUNK_BYTES`.

    Raises:
        LayoutError: A run does not consist of whole 64-bit words. No block of vLLM is like that: a head has a
            multiple of 8 elements, and tensors are aligned to more.
    """

    def __init__(self, layout: KVLayout, kind: int, offset: int = 0, chunk_bytes: int = CHUNK_BYTES) -> None:
        if any((s.size | s.stride | s.base) % _WORD for s in layout.segments):
            raise LayoutError(f"a KV block's run is not of whole words of {_WORD} bytes")
        self.kind = kind
        self._offset = offset
        self._words = layout.block_bytes // _WORD
        self._chunks = _chunks(layout, chunk_bytes)
        runs = self._runs = len(layout.segments)
        # SUM64 is a polynomial: value = sum(total[i] * ODD^(runs - i)) + sum(ODD^k for k < runs)
        self._weights = numpy.array([pow(_ODD, runs - i, 1 << 64) for i in range(runs)], dtype="<u8")
        self._constant = sum(pow(_ODD, k, 1 << 64) for k in range(runs))

    def copy_in(self, sources: Sequence[Any], blocks: Sequence[int], kinds: Sequence[int]) -> list[int]:
        """Copy payloads into blocks; returns the checksum of each payload, of its kind.

        Args:
            sources: Buffers with a payload at ``offset``.
            blocks: KV block ids, one per buffer.
            kinds: Kinds of checksum, one per buffer.
        """
        return self._copy(sources, blocks, kinds, inwards=True)

    def copy_out(self, targets: Sequence[Any], blocks: Sequence[int]) -> list[int]:
        """Copy blocks into payloads; returns the checksum of each payload.

        Args:
            targets: Writable buffers with room for a payload at ``offset``.
            blocks: KV block ids, one per buffer.
        """
        return self._copy(targets, blocks, [self.kind] * len(blocks), inwards=False)

    def clear(self, block: int) -> None:
        """Fill a block with zeros.

        Args:
            block: KV block id.
        """
        for chunk in self._chunks:
            for view, _, _ in chunk.parts:
                view[block] = 0

    def _copy(self, buffers: Sequence[Any], blocks: Sequence[int], kinds: Sequence[int], *, inwards: bool) -> list[int]:
        totals = numpy.zeros((len(blocks), self._runs), dtype="<u8")
        checks = [0] * len(blocks)
        add = numpy.add.reduce
        for index, (buffer, block, kind) in enumerate(zip(buffers, blocks, kinds, strict=True)):
            payload: Any = numpy.frombuffer(buffer, "<u8", self._words, self._offset)
            for chunk in self._chunks:
                for view, start, end in chunk.parts:
                    there = view[block]
                    here = payload[start:end].reshape(there.shape)
                    if inwards:
                        there[...] = here
                    else:
                        here[...] = there
                copied = payload[chunk.start : chunk.end]
                if kind == CRC32:
                    checks[index] = zlib.crc32(copied, checks[index])
                elif kind == SUM64:
                    add(copied.reshape(chunk.runs, -1), axis=1, out=totals[index, chunk.first : chunk.last])
        if SUM64 in kinds:
            for index, total in enumerate((totals @ self._weights).tolist()):
                if kinds[index] == SUM64:
                    checks[index] = (total + self._constant) & _MASK
        return checks


def _chunks(layout: KVLayout, max_bytes: int) -> list[_Chunk]:
    chunks: list[_Chunk] = []
    position = run = 0
    for piece in pieces(layout.segments, layout.num_blocks, max_bytes):
        end = position + piece.nbytes // _WORD
        parts, start, first = [(_strided(piece, layout.num_blocks), position, end)], position, run
        run += piece.runs
        if chunks:
            last = chunks[-1]
            same_size = last.parts[-1][0].shape[-1] * _WORD == piece.size
            if same_size and (end - last.start) * _WORD <= max_bytes:
                parts, start, first = last.parts + parts, last.start, last.first
                chunks.pop()
        chunks.append(_Chunk(parts, start, end, first, run - first))
        position = end
    return chunks


class _Memory:
    """Some address, as numpy wants to be told of it."""

    def __init__(self, address: int) -> None:
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": (1,), "typestr": "<u8"}


def _strided(piece: Piece, num_blocks: int) -> Any:
    """Return all blocks' runs of a piece as one array ``[blocks, count, inner, words]``, without a copy."""
    shape = (num_blocks, piece.count, piece.inner, piece.size // _WORD)
    strides = (piece.stride, piece.step, piece.inner_step, _WORD)
    return as_strided(numpy.asarray(_Memory(piece.base)), shape, strides)
