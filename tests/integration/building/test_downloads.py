"""Wheels from a real HTTP index: complete or not there at all."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from yrpd.building.locks import Lock, Locked
from yrpd.building.wheelhouse import provide, wheels_folder
from yrpd.errors import EnvironmentFailure, PinMismatchError
from yrpd.project import Project
from yrpd.reporting import Reporter

DATA = b"a wheel" * 100_000
SHA = hashlib.sha256(DATA).hexdigest()
FILE = "x-1-py3-none-any.whl"
LOCK = Lock("some", (Locked("x", "1", frozenset({SHA})),), "0" * 64)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index with one project; the folder that it serves."""
    folder = tmp_path / "index"
    (folder / "x").mkdir(parents=True)
    (folder / "x" / FILE).write_bytes(DATA)
    (folder / "x" / "index.html").write_text(f'<html><body><a href="{FILE}#sha256={SHA}">{FILE}</a></body></html>')
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_address[1]}/")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
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
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(EnvironmentFailure, match="does not answer"):
        provide(project, LOCK, reporter)
    assert _files(project) == []
