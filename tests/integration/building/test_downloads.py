"""Wheels from a real HTTP index: complete or not there at all."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from yrpd.errors import ConfigurationError, EnvironmentFailure, PinMismatchError
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.wheels.locks import Lock, Locked
from yrpd.wheels.wheelhouse import provide, wheels_folder


def _wheel(*requires: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        lines = ["Name: x", "Version: 1", *(f"Requires-Dist: {one}" for one in requires)]
        archive.writestr(zipfile.ZipInfo("x-1.dist-info/METADATA"), "\n".join(lines))
        archive.writestr(zipfile.ZipInfo("x/data"), b"a wheel" * 100_000)
    return stream.getvalue()


DATA = _wheel()
SHA = hashlib.sha256(DATA).hexdigest()
FILE = "x-1-py3-none-any.whl"
LOCK = Lock("some", (Locked("x", "1", frozenset({SHA})),), "0" * 64)


def _write_page(folder: Path, fragment: str) -> None:
    (folder / "x" / "index.html").write_text(f'<html><body><a href="{FILE}{fragment}">{FILE}</a></body></html>')


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip is configured with on this machine does not count here."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index with one project; the folder that it serves."""
    folder = tmp_path / "index"
    (folder / "x").mkdir(parents=True)
    (folder / "x" / FILE).write_bytes(DATA)
    _write_page(folder, f"#sha256={SHA}")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_address[1]}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield folder
        server.shutdown()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("YRPD_CACHE", str(tmp_path / "cache"))
    return Project(tmp_path)


@pytest.fixture
def reporter() -> Reporter:
    reporter = Reporter()
    reporter.console = Console(file=io.StringIO())
    return reporter


def _files(project: Project) -> list[str]:
    return sorted(path.name for path in wheels_folder(project).rglob("*") if path.is_file() and path.name != ".lock")


def test_a_wheel_is_downloaded_once_and_found_again_without_the_index(
    project: Project, reporter: Reporter, index: Path
) -> None:
    (stored,) = provide(project, LOCK, reporter)
    assert stored.path.read_bytes() == DATA
    (index / "x" / "index.html").unlink()
    assert provide(project, LOCK, reporter) == (stored,)


def test_other_bytes_from_the_index_are_refused_and_nothing_of_them_stays(
    project: Project, reporter: Reporter, index: Path
) -> None:
    (index / "x" / FILE).write_bytes(b"b" + DATA[1:])
    with pytest.raises(PinMismatchError, match=f"expected sha256 {SHA}"):
        provide(project, LOCK, reporter)
    assert _files(project) == []
    (index / "x" / FILE).write_bytes(DATA)
    provide(project, LOCK, reporter)


@pytest.mark.parametrize("left_over", [DATA[:1000], DATA, b"something else entirely"])
def test_a_download_that_was_interrupted_is_completed(
    project: Project, reporter: Reporter, index: Path, left_over: bytes
) -> None:
    wheels_folder(project).mkdir(parents=True)
    (wheels_folder(project) / f"{SHA}.part").write_bytes(left_over)
    (stored,) = provide(project, LOCK, reporter)
    assert stored.path.read_bytes() == DATA
    assert f"{SHA}.part" not in _files(project)


def test_an_index_without_the_project_is_named_as_a_mismatch(project: Project, reporter: Reporter, index: Path) -> None:
    (index / "x" / FILE).unlink()
    (index / "x" / "index.html").write_text("<html><body></body></html>")
    with pytest.raises(PinMismatchError, match="no wheel of x 1"):
        provide(project, LOCK, reporter)


def test_an_index_that_does_not_answer_is_the_environments_fault(
    project: Project, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(EnvironmentFailure, match="does not answer"):
        provide(project, LOCK, reporter)
    assert _files(project) == []


@pytest.mark.parametrize("fragment", [f"#sha256={SHA}", ""])
def test_an_index_in_a_local_folder_is_one_with_or_without_hashes(
    project: Project, reporter: Reporter, index: Path, monkeypatch: pytest.MonkeyPatch, fragment: str
) -> None:
    _write_page(index, fragment)
    monkeypatch.setenv("PIP_INDEX_URL", index.as_uri())
    (stored,) = provide(project, LOCK, reporter)
    assert stored.path.read_bytes() == DATA


def test_an_http_mirror_that_states_no_hashes_is_read_for_them(
    project: Project, reporter: Reporter, index: Path
) -> None:
    _write_page(index, "")
    (stored,) = provide(project, LOCK, reporter)
    assert stored.path.read_bytes() == DATA


@pytest.mark.parametrize("as_address", [False, True])
def test_a_folder_of_wheels_is_enough_without_an_index(
    project: Project, reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_address: bool
) -> None:
    folder = tmp_path / "some wheels"
    folder.mkdir()
    (folder / FILE).write_bytes(DATA)
    # The folder holds what the lock does not know, too.
    (folder / "x-2-py3-none-any.whl").write_bytes(b"newer")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri() if as_address else os.fspath(tmp_path / "links"))
    if not as_address:
        # pip splits the option at blanks.
        (tmp_path / "links").symlink_to(folder)
    (stored,) = provide(project, LOCK, reporter)
    assert stored.path.read_bytes() == DATA


def test_a_folder_with_other_bytes_under_the_name_does_not_hide_the_index(
    project: Project, reporter: Reporter, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / FILE).write_bytes(b"a local build")
    monkeypatch.setenv("PIP_FIND_LINKS", os.fspath(tmp_path / "links"))
    (stored,) = provide(project, LOCK, reporter)
    assert stored.path.read_bytes() == DATA


def test_a_wheel_that_is_nowhere_is_missed_with_every_place_that_was_looked_in(
    project: Project, reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "file:///mirror/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", os.fspath(tmp_path))
    with pytest.raises(PinMismatchError, match=f"Looked in: {tmp_path}, file:///mirror/simple") as caught:
        provide(project, LOCK, reporter)
    assert caught.value.next_command.startswith("pip config list")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(PinMismatchError, match="pip is told to use no index and no folder"):
        provide(project, LOCK, reporter)


def test_an_incomplete_lock_is_refused_when_its_wheels_are_first_seen(
    project: Project, reporter: Reporter, index: Path
) -> None:
    data = _wheel("y>=2")
    sha256 = hashlib.sha256(data).hexdigest()
    (index / "x" / FILE).write_bytes(data)
    _write_page(index, "")
    lock = Lock("some", (Locked("x", "1", frozenset({sha256})),), "1" * 64)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"some\.lock is not complete: x requires y>=2"):
            provide(project, lock, reporter)
