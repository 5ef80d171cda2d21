# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a KV block are: from what ``register_kv_caches`` receives to addresses and sizes.

Tensors are used by duck typing (``data_ptr``, ``shape``, ``stride``, ``element_size``, ``dtype``, ``device``), so this
module needs no torch. Known forms, with ``B`` blocks of ``S`` tokens, ``H`` KV heads of ``D`` elements:

* Ascend attention: a pair ``(K, V)``, each ``[B, S, H, D]``; int8 cache: each ``[B, S, H * D]``
* MLA: a pair ``(latent, rope)``, ``[B, S, 1, d]`` of two widths, or one tensor ``[B, S, d]``
* vLLM CPU ``[2, B, S * H * D]``
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class LayoutError(ValueError):
    """The KV caches have a form that cannot be moved block by block; the message names the layer."""


@dataclass(frozen=True)
class Segment:
    """One run of bytes of each block.

    Attributes:
        base: Address of block 0's run.
        stride: Bytes from one block's run to the next block's.
        size: Bytes of the run.
    """

    base: int
    stride: int
    size: int

    def address(self, block: int) -> int:
        """Return the address of a block's run."""
        return self.base + block * self.stride


@dataclass(frozen=True)
class KVLayout:
    """All runs of a block, in the order in which they follow each other in a stored object.

    Attributes:
        segments: The runs, by layer, then K before V (latent before rope).
        num_blocks: Blocks in the cache.
        device_type: ``cpu`` or ``npu`` (or ``cuda``, which no transport takes).
        device_index: Index of the device; 0 on a CPU.
        fingerprint: 16 bytes that two engines share only if their blocks have the same inner form.
        tensors: The tensors, kept alive as long as their addresses are in use.
    """

    segments: tuple[Segment, ...]
    num_blocks: int
    device_type: str
    device_index: int
    fingerprint: bytes
    tensors: tuple[Any, ...] = ()

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers of this rank."""
        return sum(segment.size for segment in self.segments)

    def ranges(self, block: int) -> list[tuple[int, int]]:
        """Return ``(address, bytes)`` of each run of a block.

        Raises:
            LayoutError: There is no such block.
        """
        if not 0 <= block < self.num_blocks:
            raise LayoutError(f"block {block} is not in 0..{self.num_blocks - 1}")
        return [(segment.address(block), segment.size) for segment in self.segments]

    @classmethod
    def from_caches(cls, caches: Mapping[str, Any], *, mla: bool = False) -> KVLayout:
        """Normalise what vLLM registers.

        Args:
            caches: Layer name -> tensor, or tuple of tensors.
            mla: The model uses multi-head latent attention, so a single tensor has its blocks first.

        Raises:
            LayoutError: A form is unknown or not contiguous per block, or layers do not fit together.
        """
        seen: set[tuple[int, tuple[int, ...]]] = set()
        tensors: list[Any] = []
        segments: list[Segment] = []
        shapes: list[str] = []
        counts: set[int] = set()
        for name in sorted(caches, key=_natural):
            cache = caches[name]
            parts = list(cache) if isinstance(cache, (tuple, list)) else [cache]
            identity = (int(parts[0].data_ptr()), tuple(int(n) for n in parts[0].shape))
            if identity in seen:  # a layer that shares another layer's cache adds no bytes
                continue
            seen.add(identity)
            for part in parts:
                found, axis = _split(name, part, paired=isinstance(cache, (tuple, list)), mla=mla)
                segments += found
                counts.add(int(part.shape[axis]))
                tensors.append(part)
                inner = [int(n) for n in part.shape[axis + 1 :]]
                shapes.append(f"{part.dtype}:{[s.size for s in found]}:{inner}")
        if not segments:
            raise LayoutError("no KV cache was registered")
        if len(counts) > 1:
            raise LayoutError(f"layers differ in their number of blocks: {sorted(counts)}")
        devices = {(str(t.device.type), int(t.device.index or 0)) for t in tensors}
        if len(devices) > 1:
            raise LayoutError(f"layers are on several devices: {sorted(devices)}")
        device_type, device_index = devices.pop()
        digest = hashlib.sha256("\n".join(shapes).encode()).digest()[:16]
        return cls(tuple(segments), counts.pop(), device_type, device_index, digest, tuple(tensors))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Order ``layers.10`` after ``layers.9``, the same way on every engine."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def _split(name: str, tensor: Any, *, paired: bool, mla: bool) -> tuple[list[Segment], int]:
    """Return the runs of one tensor, and along which axis its blocks are."""
    shape = [int(n) for n in tensor.shape]
    if len(shape) < 3:
        raise LayoutError(f"{name}: unknown KV cache of shape {shape}")
    if paired or mla:
        return [_segment(name, tensor, shape, axis=0, plane=None)], 0
    if shape[0] == 2:
        return [_segment(name, tensor, shape, axis=1, plane=p) for p in (0, 1)], 1
    raise LayoutError(f"{name}: unknown KV cache of shape {shape}")


def _segment(name: str, tensor: Any, shape: list[int], *, axis: int, plane: int | None) -> Segment:
    """Return the run of each block along ``axis``, and prove that it is one run."""
    strides = [int(n) for n in tensor.stride()]
    item = int(tensor.element_size())
    elements = 1
    for size, stride in zip(reversed(shape[axis + 1 :]), reversed(strides[axis + 1 :]), strict=True):
        if size != 1 and stride != elements:
            raise LayoutError(f"{name}: a block of shape {shape[axis + 1 :]} is not contiguous (strides {strides})")
        elements *= size
    if strides[axis] < elements:
        raise LayoutError(f"{name}: blocks overlap (strides {strides})")
    base = int(tensor.data_ptr()) + (0 if plane is None else plane * strides[0] * item)
    return Segment(base, strides[axis] * item, elements * item)
