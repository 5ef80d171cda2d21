# SPDX-License-Identifier: Apache-2.0
"""Digest of weight files in bounded time: equal digests mean equal weights, wherever and under whatever path they are.

Up to :data:`WHOLE_BYTES` all bytes count. Of larger models, the time depends on the number of tensors and not on their
size: every file's name, size and index (the safetensors header; the CRC-32 of every record of a ``.pt`` or ``.bin``
archive) and samples of its content count: of each tensor the first, the middle and the last :data:`SAMPLE_BYTES`, of
files without such an index samples at equal distances. Times of files do not count: copies differ in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

#: Up to so many bytes in all are read completely: a fifth of a second on one slow core.
WHOLE_BYTES = 64 << 20
SAMPLE_BYTES = 4096
#: Samples of all files without an index of tensors together.
SPACED_SAMPLES = 16384
_READERS = 8
_PIECE = 4 << 20
#: What the safetensors format itself allows.
_LONGEST_HEADER = 100_000_000

_SAFETENSORS = ("*.safetensors",)
_ANY = ("*.safetensors", "*.bin", "*.pt")
#: Load format -> patterns, the first of which that has files is what vLLM reads (``DefaultModelLoader`` and others).
PATTERNS: Mapping[str, tuple[str, ...]] = {
    "auto": _ANY,
    "hf": _ANY,
    "bitsandbytes": _ANY,
    "safetensors": ("*.safetensors", "*.pt"),
    "fastsafetensors": ("*.safetensors", "*.pt"),
    "sharded_state": _SAFETENSORS,
    "runai_streamer": _SAFETENSORS,
    "runai_streamer_sharded": _SAFETENSORS,
    "mistral": ("consolidated*.safetensors", "*.pt"),
    "pt": ("*.pt",),
    "npcache": ("*.bin", "*.pt"),
    "gguf": ("*.gguf",),
}
_INDEX = {"mistral": "consolidated.safetensors.index.json"}
#: Left behind by training; vLLM does not load them.
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")


@dataclass(frozen=True)
class Stamp:
    """What changes whenever a file is replaced or written to; it says nothing about another copy of the file."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Return a file's stamp.

        Raises:
            OSError: It cannot be looked at.
        """
        status = path.stat()
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def weight_files(place: Path, load_format: str) -> dict[str, Path]:
    """Return the files that vLLM loads a model from, by name.

    Args:
        place: The model's folder, or its only file.
        load_format: A key of :data:`PATTERNS`.

    Raises:
        KeyError: It is not known which files this load format reads.
        OSError: The folder cannot be read.
    """
    patterns = PATTERNS[load_format]
    if place.is_file():
        return {"": place}
    names = sorted(os.listdir(place))
    for pattern in patterns:
        found = {n: place / n for n in names if Path(n).match(pattern) and n not in _NO_WEIGHTS}
        if found:
            if pattern.endswith(".safetensors"):
                listed = _indexed(place / _INDEX.get(load_format, "model.safetensors.index.json"))
                found = {name: path for name, path in found.items() if name in listed} or found
            return found
    return {}


def digest(files: Mapping[str, Path], *, full: bool = False) -> str:
    """Return the identity of some files' content.

    Args:
        files: Where they are, by the name that counts.
        full: Read every byte, however many there are.

    Returns:
        ``whole:`` or ``sampled:`` (how much was read), then 32 hexadecimal digits.

    Raises:
        OSError: A file cannot be read.
    """
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = sum(sizes.values())
    whole = full or total <= WHOLE_BYTES

    def one(name: str) -> bytes:
        with files[name].open("rb") as stream:
            hashed = hashlib.sha256(f"{name}\0{sizes[name]}\0".encode())
            for piece in _pieces(stream.fileno(), sizes[name], total, whole=whole):
                hashed.update(piece)
            return hashed.digest()

    with ThreadPoolExecutor(_READERS, "yuanrong-weights") as readers:
        parts = list(readers.map(one, sorted(files)))
    return f"{'whole' if whole else 'sampled'}:{hashlib.sha256(b''.join(parts)).hexdigest()[:32]}"


def stamps(files: Iterable[Path]) -> dict[Path, Stamp]:
    """Return the stamps of files.

    Raises:
        OSError: One cannot be looked at.
    """
    return {path: Stamp.of(path) for path in files}


def _indexed(path: Path) -> set[str]:
    try:
        return set(map(str, json.loads(path.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return set()


def _pieces(descriptor: int, size: int, total: int, *, whole: bool) -> Iterator[bytes]:
    if whole:
        for offset in range(0, size, _PIECE):
            yield os.pread(descriptor, min(_PIECE, size - offset), offset)
        return
    index, runs = _tensors(descriptor, size)
    if not runs:
        index = _archive(descriptor)
        runs = _spaced(size, max(16, SPACED_SAMPLES * size // max(1, total)))
    yield index
    for begin, end in runs:
        for offset, count in _samples(begin, end):
            yield os.pread(descriptor, count, offset)


def _samples(begin: int, end: int) -> Sequence[tuple[int, int]]:
    """Return offset and size of what is read of a run of bytes: its beginning, middle and end, or all of it."""
    if end - begin <= 3 * SAMPLE_BYTES:
        return [(begin, end - begin)] if end > begin else []
    middle = begin + (end - begin - SAMPLE_BYTES) // 2
    return [(offset, SAMPLE_BYTES) for offset in (begin, middle, end - SAMPLE_BYTES)]


def _spaced(size: int, count: int) -> list[tuple[int, int]]:
    step = max(SAMPLE_BYTES, size // count)
    runs = [(offset, min(size, offset + SAMPLE_BYTES)) for offset in range(0, size, step)]
    return [*runs, (max(0, size - SAMPLE_BYTES), size)]


def _tensors(descriptor: int, size: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Return a safetensors file's header and the tensors' runs of bytes; empty when it is no such file."""
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
        return b"", []
    header = os.pread(descriptor, length, 8)
    try:
        tensors = json.loads(header)
        offsets = [each["data_offsets"] for name, each in tensors.items() if name != "__metadata__"]
        runs = sorted((8 + length + int(begin), 8 + length + int(end)) for begin, end in offsets)
    except (ValueError, TypeError, KeyError, AttributeError):
        return b"", []
    if any(not 8 + length <= begin <= end <= size for begin, end in runs):
        return b"", []
    return header, runs


def _archive(descriptor: int) -> bytes:
    """Return names, sizes and checksums of what torch.save packed, empty for files that are no archives."""
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                records = [[each.filename, each.file_size, each.CRC] for each in archive.infolist()]
        except (zipfile.BadZipFile, OSError, ValueError):
            return b""
    return json.dumps(records).encode()
