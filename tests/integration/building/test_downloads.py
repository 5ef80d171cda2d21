"""Wheels from a real HTTP index: complete or not there at all."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import os
import shutil
import ssl
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
import trustme
from rich.console import Console

from yrpd.errors import ConfigurationError, EnvironmentFailure, PinMismatchError
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.wheels.locks import Lock, Locked
from yrpd.wheels.wheelhouse import provide, wheels_folder


def _wheel(*requires: str, name: str = "x") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1"]
        lines += [f"Requires-Dist: {one}" for one in requires]
        archive.writestr(zipfile.ZipInfo(f"{name}-1.dist-info/METADATA"), "\n".join(lines) + "\n")
        archive.writestr(zipfile.ZipInfo(f"{name}/data"), b"a wheel" * 100_000)
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
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    busy: ClassVar[dict[str, int]] = {}
    wanted: ClassVar[str] = ""

    def do_GET(self) -> None:
        self.path = urlsplit(self.path).path  # whole addresses are asked of a proxy
        if self.wanted and self.headers["Authorization"] != self.wanted:
            self.send_response(http.HTTPStatus.UNAUTHORIZED)
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.end_headers()
        elif self.busy.get(self.path, 0):
            self.busy[self.path] -= 1
            self.send_error(http.HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            super().do_GET()

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


def _names(project: Project) -> list[str]:
    folder = wheels_folder(project)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return sorted(str(path.relative_to(folder)) for path in files)


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
    assert _names(project) == []
    (index / "x" / FILE).write_bytes(DATA)
    provide(project, LOCK, reporter)


def test_what_an_interrupted_run_left_counts_for_nothing_and_whole_wheels_are_kept(
    project: Project, reporter: Reporter, index: Path
) -> None:
    (index / "y").mkdir()
    data = _wheel(name="y")
    sha256 = hashlib.sha256(data).hexdigest()
    lock = Lock("some", (*LOCK.entries, Locked("y", "1", frozenset({sha256}))), "2" * 64)
    page = index / "y" / "index.html"
    page.write_text(f'<a href="y-1-py3-none-any.whl#sha256={sha256}">y-1-py3-none-any.whl</a>')
    with pytest.raises(EnvironmentFailure, match=r"y-1-py3-none-any\.whl could not be downloaded"):
        provide(project, lock, reporter)
    assert f"{SHA}/{FILE}" in _names(project)
    assert not [name for name in _names(project) if sha256 in name]
    (wheels_folder(project) / sha256 / ".incoming-old").mkdir(parents=True)
    (wheels_folder(project) / sha256 / ".incoming-old" / "y-1-py3-none-any.whl").write_bytes(data[:1000])
    (index / "y" / "y-1-py3-none-any.whl").write_bytes(data)
    (index / "x" / FILE).unlink()
    assert [one.path.read_bytes() for one in provide(project, lock, reporter)] == [DATA, data]
    assert not [*wheels_folder(project).glob("*/.incoming-*")]


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
    with pytest.raises(EnvironmentFailure, match=r"does not answer: http://127\.0\.0\.1:9/x/: "):
        provide(project, LOCK, reporter)
    assert _names(project) == []


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


@pytest.mark.parametrize(
    ("variables", "answers"),
    [
        ({"PIP_CERT": "ca.pem", "PIP_CLIENT_CERT": "me.pem"}, True),
        ({"REQUESTS_CA_BUNDLE": "ca.pem", "PIP_CLIENT_CERT": "me.pem"}, True),
        ({"PIP_TRUSTED_HOST": "localhost", "PIP_CLIENT_CERT": "me.pem"}, True),
        ({"PIP_TRUSTED_HOST": "localhost:{port}", "PIP_CLIENT_CERT": "me.pem"}, True),
        ({"PIP_TRUSTED_HOST": "other.example", "PIP_CLIENT_CERT": "me.pem"}, False),
        ({"PIP_CERT": "ca.pem"}, False),
        ({"PIP_CLIENT_CERT": "me.pem"}, False),
    ],
)
def test_certificates_and_trusted_hosts_are_those_of_pip(
    variables: dict[str, str],
    answers: bool,
    project: Project,
    reporter: Reporter,
    index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("me").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(index))) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PIP_INDEX_URL", f"https://localhost:{port}/")
        monkeypatch.setenv("NO_PROXY", "localhost")
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(port=port))
        if answers:
            assert provide(project, LOCK, reporter)[0].path.read_bytes() == DATA
        else:
            with pytest.raises(EnvironmentFailure, match=f"does not answer: https://localhost:{port}/x/: "):
                provide(project, LOCK, reporter)
        server.shutdown()


@pytest.mark.parametrize("variable", ["PIP_CERT", "PIP_CLIENT_CERT"])
def test_a_certificate_that_is_not_there_is_said_to_be(
    variable: str, project: Project, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "/nowhere.pem")
    with pytest.raises(EnvironmentFailure, match="A certificate that pip is configured with cannot be read"):
        provide(project, LOCK, reporter)


def test_the_proxy_is_pips_for_a_host_that_is_trusted_too(
    project: Project, reporter: Reporter, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The index plays the proxy: it is asked for whole addresses and answers by their paths.
    monkeypatch.setenv("PIP_PROXY", os.environ["PIP_INDEX_URL"].rstrip("/"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/")
    assert provide(project, LOCK, reporter)[0].path.read_bytes() == DATA
    shutil.rmtree(wheels_folder(project))
    monkeypatch.setenv("PIP_TRUSTED_HOST", "index.invalid")
    assert provide(project, LOCK, reporter)[0].path.read_bytes() == DATA


@pytest.mark.parametrize("place", ["address", "netrc", "nowhere"])
def test_the_password_of_an_index_is_the_one_of_its_address_or_of_netrc(
    place: str, project: Project, reporter: Reporter, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Quiet, "wanted", f"Basic {base64.b64encode(b'me:secret').decode()}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n" if place == "netrc" else "")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if place != "netrc":
        user = "me:secret" if place == "address" else "me:wrong"
        monkeypatch.setenv("PIP_INDEX_URL", os.environ["PIP_INDEX_URL"].replace("//", f"//{user}@"))
    if place != "nowhere":
        assert provide(project, LOCK, reporter)[0].path.read_bytes() == DATA
        return
    with pytest.raises(EnvironmentFailure, match=r"does not answer: .*401") as caught:
        provide(project, LOCK, reporter)
    assert "wrong" not in str(caught.value)


def test_an_index_that_is_busy_is_asked_again(
    project: Project, reporter: Reporter, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Quiet, "busy", {"/x/": 1, f"/x/{FILE}": 1})
    assert provide(project, LOCK, reporter)[0].path.read_bytes() == DATA
    assert set(_Quiet.busy.values()) == {0}


def test_an_index_that_fails_is_not_taken_for_one_without_the_project(
    project: Project, reporter: Reporter, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Quiet, "busy", {"/x/": 99})
    with pytest.raises(EnvironmentFailure, match=r"does not answer: .*503"):
        provide(project, LOCK, reporter)


def test_an_extra_index_that_is_out_of_reach_is_done_without(
    project: Project, reporter: Reporter, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/")
    assert provide(project, LOCK, reporter)[0].path.read_bytes() == DATA


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
        with pytest.raises(ConfigurationError, match=r"some\.lock is not complete: Because .*x depend on y>=2"):
            provide(project, lock, reporter)
