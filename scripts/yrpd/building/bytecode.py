"""Compiles a wheel's modules ahead of time; run as a program of its own, without anything of this project loaded.

Usage: ``python -I -B bytecode.py WHEEL TARGET``, with ``[[member of the wheel, path once installed], ...]`` as JSON on
standard input. TARGET becomes a zip archive of the compiled files, by the path that Python looks for them.

The files are of the kind that Python never compares with their source (PEP 552), so that no time is in them.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import marshal
import sys
import warnings
import zipfile
from types import CodeType

UNCHECKED_HASH = (1).to_bytes(4, "little")
EPOCH = (1980, 1, 1, 0, 0, 0)


def compiled(source: bytes, path: str) -> bytes | None:
    """Return a compiled file's bytes; ``None`` when the source does not compile, as test data in wheels may not.

    Args:
        source: The module's source.
        path: Where it will be, which tracebacks name.
    """
    try:
        code: CodeType = compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return None
    return importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + importlib.util.source_hash(source) + marshal.dumps(code)


def main(wheel: str, target: str) -> None:
    """Compile what standard input names."""
    warnings.simplefilter("ignore")
    gc.disable()
    rows: list[tuple[str, str]] = json.load(sys.stdin)
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for member, path in sorted(rows, key=lambda row: row[1]):
            data = compiled(source.read(member), path)
            if data is not None:
                archive.writestr(zipfile.ZipInfo(importlib.util.cache_from_source(path).lstrip("/"), EPOCH), data)


if __name__ == "__main__":
    main(*sys.argv[1:])
