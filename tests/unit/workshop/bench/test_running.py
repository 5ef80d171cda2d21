"""The benchmark's command line and the processes around it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from workshop import datasystem
from workshop.bench.commands import source_digest
from workshop.bench.inside import command_line, parse
from yrpd.errors import EnvironmentFailure


def test_the_recorded_command_is_the_one_to_type_again() -> None:
    options = parse(["--rounds", "7", "--only", "keys", "--only", "steps", "--json"])
    text = command_line(options)
    assert text == ".venv/bin/python scripts/bench_connector.py --rounds 7 --only keys --only steps"
    again = parse(text.split()[2:])
    assert (again.rounds, again.only) == (options.rounds, options.only)


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--rounds", "x"], ["--only", "nothing"]])
def test_wrong_options_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_ports_are_all_different() -> None:
    assert len(set(datasystem.free_ports(20))) == 20


def test_etcd_and_the_worker_listen_on_this_machine_alone(tmp_path: Path) -> None:
    etcd = datasystem.etcd_argv("/bin/etcd", tmp_path, "127.0.0.1:1", "127.0.0.1:2")
    assert etcd[0] == "/bin/etcd"
    assert "--listen-client-urls=http://127.0.0.1:1" in etcd
    assert "--initial-cluster=default=http://127.0.0.1:2" in etcd
    worker = datasystem.worker_argv(tmp_path, "127.0.0.1:3", "127.0.0.1:1", 64, tmp_path / "ready")
    assert worker[:3] == [sys.executable, "-m", "yrpd.serving.worker"]
    assert f"--flag=ready_check_path={tmp_path}/ready" in worker


def test_without_etcd_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(EnvironmentFailure, match="etcd is not on PATH") as caught, datasystem.datasystem(tmp_path, 64):
        pass
    assert caught.value.next_command == "apt-get install etcd-server"


def test_a_service_that_ends_at_start_is_reported_with_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "etcd"
    program.write_text("#!/bin/sh\necho no space left; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(program))
    with (
        pytest.raises(EnvironmentFailure, match="ended at start with code 3") as caught,
        datasystem.datasystem(tmp_path, 64),
    ):
        pass
    assert "no space left" in caught.value.detail


def test_the_digest_of_sources_depends_on_content_and_names_and_not_on_the_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "x.py").write_text("1")
    assert source_digest(tmp_path / "a") == source_digest(tmp_path / "b")
    (tmp_path / "b" / "inner" / "x.py").write_text("2")
    assert source_digest(tmp_path / "a") != source_digest(tmp_path / "b")
    (tmp_path / "b" / "inner" / "x.py").rename(tmp_path / "b" / "inner" / "y.py")
    (tmp_path / "b" / "inner" / "y.py").write_text("1")
    assert source_digest(tmp_path / "a") != source_digest(tmp_path / "b")
