"""Build contexts: the same bytes whatever the order, the times and the owner of the files."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from yrpd.building.context import Context
from yrpd.documents.inputs import digest_of

folders = st.lists(st.sampled_from(["a", "b", "c" * 90, "d" * 120]), max_size=2)
file_names = st.tuples(folders, st.sampled_from(["x.py", "y" * 100])).map(lambda parts: "/".join([*parts[0], parts[1]]))
contents = st.dictionaries(file_names, st.tuples(st.binary(max_size=1200), st.booleans()), max_size=6)


def _context(files: dict[str, tuple[bytes, bool]]) -> Context:
    context = Context()
    for name, (data, executable) in files.items():
        context.add_bytes(name, data, executable=executable)
    return context


@given(contents)
def test_the_stream_is_a_tar_archive_with_exactly_these_files(files: dict[str, tuple[bytes, bool]]) -> None:
    archive = b"".join(_context(files).chunks())
    assert _context(files).size == len(archive)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert all((member.mtime, member.uid, member.gid) == (0, 0, 0) for member in tar.getmembers())
        members = [member for member in tar.getmembers() if not member.isdir()]
        assert [member.name for member in members] == sorted(files)
        for member in members:
            data, executable = files[member.name]
            stream = tar.extractfile(member)
            assert stream is not None
            assert stream.read() == data
            assert member.mode == (0o755 if executable else 0o644)


@given(contents)
def test_order_of_adding_changes_neither_bytes_nor_digest(files: dict[str, tuple[bytes, bool]]) -> None:
    one, other = _context(files), _context(dict(reversed(list(files.items()))))
    assert b"".join(one.chunks()) == b"".join(other.chunks())
    assert one.digest == other.digest


def test_times_of_a_file_do_not_count_and_its_content_does(tmp_path: Path) -> None:
    path = tmp_path / "file"
    digests, archives = [], []
    for data, when in ((b"same", 1), (b"same", 2_000_000_000), (b"other", 1)):
        path.write_bytes(data)
        os.utime(path, (when, when))
        context = Context()
        context.add_file("file", path)
        digests.append(context.digest)
        archives.append(b"".join(context.chunks()))
    assert digests[0] == digests[1] != digests[2]
    assert archives[0] == archives[1] != archives[2]


def test_a_file_from_disk_with_a_known_hash_is_the_same_as_one_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data" * 1000)
    streamed, held = Context(), Context()
    streamed.add_file("file", path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    held.add_bytes("file", path.read_bytes())
    assert streamed.digest == held.digest
    assert b"".join(streamed.chunks()) == b"".join(held.chunks())


def test_an_archive_is_taken_over_with_its_links_and_modes() -> None:
    source = Context()
    source.add_bytes("bin/run", b"#!/bin/sh\n", executable=True)
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "bin/run"
        tar.addfile(link)
        script = tarfile.TarInfo("bin/run")
        script.mode, script.size, script.mtime = 0o775, 10, 12345
        tar.addfile(script, io.BytesIO(b"#!/bin/sh\n"))
    context = Context()
    context.add_archive("tree", buffer.getvalue())
    assert b"".join(context.content("tree/bin/run")) == b"".join(source.content("bin/run"))
    assert context.entries["tree/bin/run"].executable
    assert context.entries["tree/bin/run"].sha256 == source.entries["bin/run"].sha256
    assert context.entries["tree/link"].link == "bin/run"


def test_a_document_digest_ignores_key_order() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 2, "b": 1})
