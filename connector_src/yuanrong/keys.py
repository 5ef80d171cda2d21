# SPDX-License-Identifier: Apache-2.0
"""Names of KV blocks: equal names mean equal bytes, in every process and on every host.

A block's digest is a chained SHA-256: over the namespace (what the bytes depend on besides the request), the LoRA and
the salt at the root, then block by block over the token ids and every multimodal item that overlaps the block, with the
item's full content hash and its position. Nothing here depends on ``PYTHONHASHSEED``, on vLLM or on torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Bumped whenever the bytes under a key would change their meaning.
FORMAT_VERSION = 2
MAX_KEY_LENGTH = 255
LEGAL_KEY = re.compile(r"[A-Za-z0-9\-_!@#%^*()+=:;]+")
_TOKEN_BYTES = 8


@dataclass(frozen=True)
class Namespace:
    """Everything but the request that the bytes of a KV block depend on.

    Attributes:
        model: The ``model_id`` setting; else the ``--model`` string, empty where ``weights`` is a digest of its files.
        revision: Model revision, empty where ``weights`` is a digest.
        config_digest: Digest of the Hugging Face configuration and of the multimodal processor's arguments.
        dtype: Model dtype, for example ``torch.bfloat16``.
        kv_dtype: KV cache dtype or quantisation.
        quantization: Weight quantisation, or empty.
        block_size: Tokens per block.
        num_layers: Layers of the whole model.
        num_kv_heads: KV heads of the whole model, before tensor parallel sharding.
        head_size: Elements per head.
        tp_size: Tensor parallel size; 1 for MLA, whose latent is the same on every rank.
        layout: Kind of device and cache and order of the bytes in a block, for example ``npu:kv:nd``.
        tag: The operator's own separation.
        weights: What stands for the weights that the engine has loaded; see :mod:`.weights`.
        kernels: The code that computes blocks, without what only moves them.
        epoch: Empty until ``reset_prefix_cache``; then a random name, so that nothing from before is found again.
    """

    model: str
    revision: str
    config_digest: str
    dtype: str
    kv_dtype: str
    quantization: str
    block_size: int
    num_layers: int
    num_kv_heads: int
    head_size: int
    tp_size: int
    layout: str
    tag: str = ""
    weights: str = ""
    kernels: str = ""
    epoch: str = ""

    def digest(self) -> bytes:
        """Return the 32-byte digest of all fields and of the format version."""
        text = json.dumps({"format": FORMAT_VERSION, **asdict(self)}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(b"yuanrong-kv-namespace\0" + text.encode()).digest()


@dataclass(frozen=True)
class MediaItem:
    """One multimodal item of a prompt: its full content hash and the token range of its placeholder."""

    digest: str
    offset: int
    length: int


def media_items(hashes: Sequence[Any], positions: Sequence[Any], expected: int) -> tuple[MediaItem, ...] | None:
    """Pair hashes with placeholder ranges.

    Args:
        hashes: One content hash per item; may be empty when vLLM computed none.
        positions: One range per item, with ``offset`` and ``length`` in tokens.
        expected: Number of items that the request carries.

    Returns:
        The items, or None when any of them cannot be named: such a request must not be shared at all.
    """
    if len(hashes) != expected or len(positions) != expected:
        return None
    if not all(isinstance(digest, str) and digest for digest in hashes):
        return None
    return tuple(MediaItem(digest, int(p.offset), int(p.length)) for digest, p in zip(hashes, positions, strict=True))


class BlockChain:
    """Digests of a request's full blocks, each computed once.

    Args:
        namespace: ``Namespace.digest()``.
        block_size: Tokens per block.
        items: Multimodal items of the prompt.
        lora: What stands for the LoRA adapter's content (:mod:`.adapters`), or None. Name, path and number do not.
        salt: The request's ``cache_salt``, or None.
    """

    def __init__(
        self,
        namespace: bytes,
        block_size: int,
        items: Sequence[MediaItem] = (),
        lora: str | None = None,
        salt: str | None = None,
    ) -> None:
        self.block_size = block_size
        self.digests: list[bytes] = []
        self._extras = _extras(items, block_size)
        root = hashlib.sha256(b"yuanrong-kv-root\0" + namespace)
        root.update(b"|".join(_fields(*(() if each is None else (each,))) for each in (lora, salt)))
        self._last = root.digest()

    def extend(self, tokens: Sequence[int], limit: int | None = None) -> list[bytes]:
        """Hash the full blocks that are not hashed yet.

        Args:
            tokens: The request's token ids from its first token on.
            limit: Consider only the first ``limit`` tokens.

        Returns:
            All digests so far, 32 bytes each, one per full block.
        """
        size = self.block_size
        end = (len(tokens) if limit is None else min(limit, len(tokens))) // size
        start = len(self.digests)
        if end <= start:
            return self.digests
        data = array("q", tokens[start * size : end * size])
        raw = memoryview(data).cast("B")
        step = size * _TOKEN_BYTES
        last, sha256, extras, append = self._last, hashlib.sha256, self._extras, self.digests.append
        for index in range(end - start):
            state = sha256(last)
            state.update(raw[index * step : (index + 1) * step])
            if extras:
                state.update(extras.get(start + index, b""))
            last = state.digest()
            append(last)
        self._last = last
        return self.digests


def shard_name(tp_rank: int, tp_size: int, *, shared: bool) -> str:
    """Return the part of a key that tells one rank's object from another's.

    Args:
        tp_rank: Tensor parallel rank.
        tp_size: Tensor parallel size.
        shared: The cache is the same on every rank (MLA), so one object serves all.
    """
    return "m" if shared else f"{tp_rank}of{tp_size}"


def block_key(namespace: bytes, shard: str, digest: bytes) -> str:
    """Return the DataSystem key of one rank's object of one block."""
    return f"yr{FORMAT_VERSION}_{namespace[:16].hex()}_{shard}_{digest.hex()}"


def _fields(*parts: str) -> bytes:
    """Encode strings so that no two different lists give the same bytes."""
    encoded = [part.encode() for part in parts]
    return struct.pack("<I", len(encoded)) + b"".join(struct.pack("<I", len(e)) + e for e in encoded)


def _extras(items: Sequence[MediaItem], block_size: int) -> dict[int, bytes]:
    """Return, for each block that an item overlaps, the bytes that name the items and their positions."""
    extras: dict[int, bytes] = {}
    for item in sorted(items, key=lambda i: (i.offset, i.length, i.digest)):
        for block in range(item.offset // block_size, (item.offset + item.length - 1) // block_size + 1):
            position = struct.pack("<qq", item.offset - block * block_size, item.length)
            extras[block] = extras.get(block, b"") + _fields(item.digest) + position
    return extras
