"""Two different pictures, drawn here so that verification needs no file."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable

SIDE = 448  # 256 image tokens of Qwen2.5-VL: two blocks of 128

Shade = Callable[[int, int], tuple[int, int, int]]


def png(side: int, shade: Shade) -> bytes:
    """Return a square picture as PNG (ISO/IEC 15948): one IHDR, one IDAT, one IEND.

    Args:
        side: Pixels.
        shade: Column and row to red, green and blue.
    """
    rows = b"".join(b"\0" + bytes(value for x in range(side) for value in shade(x, y)) for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _sunset(x: int, y: int) -> tuple[int, int, int]:
    return 255 - y // 4, max(0, 160 - y // 2), (x * 255) // SIDE


def _chessboard(x: int, y: int) -> tuple[int, int, int]:
    return (240, 240, 240) if (x // 56 + y // 56) % 2 else (16, 16, 16)


def two_pictures() -> tuple[str, str]:
    """Return two pictures of one size as ``data:`` URLs."""
    first, second = (base64.b64encode(png(SIDE, shade)).decode() for shade in (_sunset, _chessboard))
    return f"data:image/png;base64,{first}", f"data:image/png;base64,{second}"
