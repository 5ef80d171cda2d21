"""Images that the seed decides, byte for byte: random tiles, so that two of them share nothing."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

TILE = 28  # what a Qwen2.5-VL token covers in both directions


def write_picture(path: Path, label: str, edge: int) -> str:
    """Write a PNG of ``edge`` by ``edge`` pixels and return its SHA-256.

    The format is written here because an encoder's bytes change with its version, and a dataset's must not.
    """
    tiles = -(-edge // TILE)
    colours = hashlib.shake_256(label.encode()).digest(3 * tiles * tiles)
    rows = bytearray()
    for y in range(edge):
        start = 3 * tiles * (y // TILE)
        row = b"".join(colours[start + 3 * x : start + 3 * x + 3] * TILE for x in range(tiles))
        rows += b"\0" + row[: 3 * edge]
    header = struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0)
    # Stored, not compressed: zlib's output may change with its version too.
    data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(rows), 0))
    data += _chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
