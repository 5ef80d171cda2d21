"""The DataSystem worker's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from yrpd.serving.worker import clear_leftovers, parse, worker_argv, worker_environment, worker_flags

DEFAULTS = {
    "worker_address": {"value": "127.0.0.1:31501", "description": ""},
    "log_dir": {"value": "./datasystem/logs", "description": ""},
    "spill_directory": {"value": "", "description": ""},
    "ready_check_path": {"value": "./datasystem/probe/ready", "description": ""},
    "no_value": {"description": "a flag without a default"},
}


def test_defaults_move_under_the_home_folder_and_given_flags_win() -> None:
    flags = worker_flags(DEFAULTS, "/home", {"worker_address": "10.0.0.1:5"})
    assert flags == {
        "worker_address": "10.0.0.1:5",
        "log_dir": "/home/datasystem/logs",
        "ready_check_path": "/home/datasystem/probe/ready",
    }
    assert worker_argv("/bin/worker", flags)[:2] == ["/bin/worker", "--worker_address=10.0.0.1:5"]


def test_the_packages_libraries_come_first() -> None:
    assert worker_environment("/lib", {"A": "1"}) == {"A": "1", "LD_LIBRARY_PATH": "/lib"}
    assert worker_environment("/lib", {"LD_LIBRARY_PATH": "/x"})["LD_LIBRARY_PATH"] == "/lib:/x"


def test_a_killed_workers_leftovers_are_removed(tmp_path: Path) -> None:
    ready, sockets = tmp_path / "ready", tmp_path / "sockets"
    ready.touch()
    (sockets / "folder").mkdir(parents=True)
    (sockets / "folder" / "inner").touch()
    (sockets / "socket").touch()
    (sockets / "link").symlink_to(tmp_path)
    clear_leftovers({"ready_check_path": str(ready), "unix_domain_socket_dir": str(sockets)})
    assert not ready.exists()
    assert list(sockets.iterdir()) == []
    assert tmp_path.exists()
    clear_leftovers({"ready_check_path": str(ready), "unix_domain_socket_dir": str(tmp_path / "new")})
    assert (tmp_path / "new").is_dir()


def test_the_command_line_needs_addresses_and_memory() -> None:
    with pytest.raises(SystemExit):
        parse(["--home", "/h"])
