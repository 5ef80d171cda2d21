"""What KV blocks must hold.

Every KV entry is a number derived from all tokens (and pictures) up to its position, and from the weights and the
adapter that computed it, which is what real KV depends on. So a block that was not loaded, was loaded from another
prompt, was overwritten, or was saved after it had changed hands, shows at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

VOCABULARY = 50
MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15

#: A picture: its hash, the offset of its placeholder and its length, in tokens.
Item = tuple[str, int, int]


def entry(previous: int, token: int, image: str) -> int:
    """Return the KV entry that follows ``previous``; the same in every process."""
    mixed = (previous ^ (token + 1) * _ODD ^ int(image[:8] or "0", 16) * 0xC2B2AE3D27D4EB4F) & MASK
    mixed = (mixed ^ mixed >> 31) * 0xBF58476D1CE4E5B9 & MASK
    return mixed ^ mixed >> 29


def image_at(items: Sequence[Item], position: int) -> str:
    """Return the hash of the picture at a position."""
    return next((h for h, offset, length in items if offset <= position < offset + length), "")


def entries(tokens: Sequence[int], items: Sequence[Item], root: int = 1, known: Sequence[int] = ()) -> list[int]:
    """Return the entries of all tokens.

    Args:
        tokens: The prompt and what was generated.
        items: Its pictures.
        root: Stands for weights and adapter.
        known: The first entries.
    """
    out = list(known)
    last = out[-1] if out else root
    for position in range(len(out), len(tokens)):
        last = entry(last, tokens[position], image_at(items, position) if items else "")
        out.append(last)
    return out


def reference(prompt: list[int], items: Sequence[Item], count: int, root: int = 1) -> list[int]:
    """Return the answer of an engine without any cache."""
    tokens = list(prompt)
    values: list[int] = []
    for _ in range(count):
        values = entries(tokens, items, root, values)
        tokens.append(values[-1] % VOCABULARY)
    return tokens[len(prompt) :]


def block_bytes(values: Sequence[int], rank: int, swapped: bool = False) -> bytes:
    """Return a block's bytes on a rank: keys, then values; ``swapped``: the other way round, another inner form."""
    words = [(value + rank) & MASK for value in values]
    halves = (words, [word ^ MASK for word in words])
    first, second = reversed(halves) if swapped else halves
    return struct.pack(f"<{2 * len(words)}Q", *first, *second)
