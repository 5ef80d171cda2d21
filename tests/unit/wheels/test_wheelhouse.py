"""The wheelhouse: an untouched file is believed, a touched one is hashed, a changed one is named."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from yrpd.errors import PinMismatchError
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.wheels import wheelhouse
from yrpd.wheels.locks import Lock, Locked

DATA = b"wheel" * 1000
SHA = hashlib.sha256(DATA).hexdigest()
FILE = "x-1-py3-none-any.whl"
LOCK = Lock("some", (Locked("x", "1", frozenset({SHA, "f" * 64})),), "0" * 64)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("YRPD_CACHE", raising=False)
    project = Project(tmp_path)
    folder = wheelhouse.wheels_folder(project)
    path = folder / SHA / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    rows = [{"name": "x", "version": "1", "file": FILE, "sha256": SHA}]
    (folder / f"some-x86_64-{LOCK.sha256[:16]}.json").write_text(json.dumps(rows))
    return project


@pytest.fixture
def reporter() -> Reporter:
    reporter = Reporter()
    reporter.console = Console(file=io.StringIO())
    return reporter


def test_wheels_that_are_there_need_no_index(project: Project, reporter: Reporter) -> None:
    (stored,) = wheelhouse.provide(project, LOCK, reporter)
    assert stored.path.read_bytes() == DATA
    assert wheelhouse.requirement_lines([stored]) == f"x==1 --hash=sha256:{SHA}\n"


@pytest.mark.parametrize("position", [0, 2500, len(DATA) - 1])
def test_one_flipped_byte_is_found_although_size_and_mtime_are_as_before(
    project: Project, reporter: Reporter, position: int
) -> None:
    (stored,) = wheelhouse.provide(project, LOCK, reporter)
    before = stored.path.stat()
    flipped = bytearray(DATA)
    flipped[position] ^= 1
    stored.path.write_bytes(flipped)
    os.utime(stored.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(PinMismatchError) as caught:
        wheelhouse.provide(project, LOCK, reporter)
    found = hashlib.sha256(flipped).hexdigest()
    assert FILE in caught.value.message
    assert f"expected sha256 {SHA}, found {found}" in caught.value.message
    assert str(stored.path.parent) in caught.value.next_command
    assert caught.value.exit_code == 3
    with pytest.raises(PinMismatchError):
        wheelhouse.verify_present(project, LOCK)


def test_an_untouched_file_is_not_read_again(
    project: Project, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheelhouse.provide(project, LOCK, reporter)
    read: list[Path] = []
    monkeypatch.setattr(wheelhouse, "hash_file", read.append)
    wheelhouse.provide(project, LOCK, reporter)
    assert read == []


def test_a_record_of_the_index_that_the_lock_does_not_cover_is_not_believed(project: Project) -> None:
    other = Lock("some", (Locked("x", "1", frozenset({"f" * 64})),), LOCK.sha256)
    folder = wheelhouse.wheels_folder(project)
    assert wheelhouse.read_resolution(folder, other, wheelhouse.Target()) is None
    assert wheelhouse.read_resolution(folder, LOCK, wheelhouse.Target()) is not None


def test_wheels_that_are_not_there_are_not_missed_when_only_present_ones_are_proved(project: Project) -> None:
    folder = wheelhouse.wheels_folder(project)
    (folder / SHA / FILE).unlink()
    wheelhouse.verify_present(project, LOCK)
