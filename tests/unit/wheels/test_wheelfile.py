"""Wheels written by us: a correct RECORD, and the same bytes every time."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from yrpd.wheels.wheelfile import pure_metadata, read_wheel, record_text, write_wheel

RECORD = "x-1.dist-info/RECORD"
files_of_wheels = st.dictionaries(
    st.sampled_from(["x/a.py", "x/b,c.py", 'x/"q".py', "x/d.so"]), st.binary(max_size=300)
)


@given(files_of_wheels)
def test_every_row_of_record_has_the_hash_and_size_of_its_file(files: dict[str, bytes]) -> None:
    rows = list(csv.reader(io.StringIO(record_text(files, RECORD))))
    assert rows[-1] == [RECORD, "", ""]
    assert [row[0] for row in rows[:-1]] == sorted(files)
    for name, digest, size in rows[:-1]:
        algorithm, _, text = digest.partition("=")
        assert algorithm == "sha256"
        assert base64.urlsafe_b64decode(text + "=") == hashlib.sha256(files[name]).digest()
        assert int(size) == len(files[name])


def test_writing_what_was_read_gives_the_same_bytes(tmp_path: Path) -> None:
    files = {"x/b.py": b"1", "x/a.so": b"\x7fELF", **pure_metadata("x", "1", "A test", "py3-none-any")}
    write_wheel(tmp_path / "one.whl", files)
    read = read_wheel(tmp_path / "one.whl")
    write_wheel(tmp_path / "two.whl", dict(reversed(list(read.items()))))
    assert (tmp_path / "one.whl").read_bytes() == (tmp_path / "two.whl").read_bytes()
    assert {name: data for name, data in read.items() if name != RECORD} == files


def test_an_installer_finds_name_version_and_tag(tmp_path: Path) -> None:
    write_wheel(tmp_path / "one.whl", pure_metadata("x_y", "1.2", "A test", "py3-none-any"))
    with zipfile.ZipFile(tmp_path / "one.whl") as archive:
        assert archive.testzip() is None
        assert b"Name: x-y\nVersion: 1.2\n" in archive.read("x_y-1.2.dist-info/METADATA")
        assert b"Tag: py3-none-any\n" in archive.read("x_y-1.2.dist-info/WHEEL")
