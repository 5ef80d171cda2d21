"""Wheels as files: unpack, change or make, and write back with a correct RECORD, the same bytes every time.

The archive is deterministic: sorted names, one fixed time, fixed modes, stored without compression where that costs
nothing to read later. Formats: PEP 427 (wheel), PEP 376 (RECORD).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip entry can hold
MODE = 0o100644 << 16
EXECUTABLE = 0o100755 << 16


def record_row(name: str, data: bytes) -> tuple[str, str, str]:
    """Return a RECORD row: path, urlsafe base64 sha256 without padding, size."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
    return name, f"sha256={digest}", str(len(data))


def record_text(files: Mapping[str, bytes], record: str) -> str:
    """Return RECORD's text for a wheel's files; RECORD itself has no hash."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for name in sorted(files):
        if name != record:
            writer.writerow(record_row(name, files[name]))
    writer.writerow((record, "", ""))
    return stream.getvalue()


def read_wheel(path: Path) -> dict[str, bytes]:
    """Return a wheel's files by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def executables(path: Path) -> frozenset[str]:
    """Return the names of a wheel's files that have an execute bit."""
    with zipfile.ZipFile(path) as archive:
        return frozenset(entry.filename for entry in archive.infolist() if entry.external_attr >> 16 & 0o111)


def write_wheel(path: Path, files: Mapping[str, bytes], *, executable: frozenset[str] = frozenset()) -> None:
    """Write a wheel; RECORD is made anew.

    Args:
        path: The new file; its folder exists.
        files: Content by archive name, with exactly one ``*.dist-info/`` folder.
        executable: Names that get mode 755, besides everything in ``*.data/``.
    """
    folders = {name.split("/")[0] for name in files if name.split("/")[0].endswith(".dist-info")}
    (folder,) = folders
    record = f"{folder}/RECORD"
    complete = {**files, record: record_text(files, record).encode("utf-8")}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(complete):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            runs = name in executable or name.split("/")[0].endswith(".data")
            entry.external_attr = EXECUTABLE if runs else MODE
            entry.create_system = 3
            archive.writestr(entry, complete[name])


def pure_metadata(name: str, version: str, summary: str, tag: str) -> dict[str, bytes]:
    """Return the ``.dist-info`` files of a wheel that this project makes itself.

    Args:
        name: Distribution name with underscores.
        version: Its version.
        summary: One line.
        tag: Such as ``cp311-cp311-manylinux_2_36_x86_64``.
    """
    folder = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\nSummary: {summary}\n"
    wheel = f"Wheel-Version: 1.0\nGenerator: yrpd\nRoot-Is-Purelib: false\nTag: {tag}\n"
    return {f"{folder}/METADATA": metadata.encode(), f"{folder}/WHEEL": wheel.encode()}
