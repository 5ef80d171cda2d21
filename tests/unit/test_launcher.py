"""Whose commands ``yrpd`` runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from yrpd.errors import EnvironmentFailure
from yrpd.launcher import command_line

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "yrpd.launcher", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_below_a_checkout_it_offers_the_commands_of_that_checkout() -> None:
    found = run(ROOT / "docs", "--list")
    assert found.returncode == 0
    assert "deploy.status" in found.stdout


def test_its_version_is_the_checkouts() -> None:
    assert run(ROOT, "--version").stdout.split() == ["yrpd", PROJECT["version"]]


def test_a_failing_command_keeps_its_exit_code() -> None:
    assert run(ROOT / "docs", "deploy.plan", "--flavour", "gpu").returncode == 2


def test_elsewhere_it_says_where_to_go(tmp_path: Path) -> None:
    found = run(tmp_path, "--list")
    assert found.returncode == 8
    assert "next: cd CHECKOUT && yrpd --list" in found.stderr


def test_in_a_release_folder_it_is_that_folders_deploy_pyz(tmp_path: Path) -> None:
    for name in ("deploy.pyz", "manifest.json"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    line = command_line(tmp_path / "below", ["deploy.status", "--hosts", "h.toml"], "/usr/bin/python3")
    assert line == ["/usr/bin/python3", str(tmp_path / "deploy.pyz"), "status", "--hosts", "h.toml"]
    assert command_line(tmp_path, ["deploy"], "python3")[2:] == ["deploy"]


def test_a_checkout_without_an_environment_gets_the_launchers_python(tmp_path: Path) -> None:
    for name in ("tasks.py", "release.toml"):
        (tmp_path / name).touch()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "9.8.7"\n')
    (tmp_path / "scripts" / "yrpd").mkdir(parents=True)
    line = command_line(tmp_path, ["deploy"], "/usr/bin/python3")
    assert line[0] == "/usr/bin/python3"
    assert line[-4:] == ["9.8.7", "--search-root", str(tmp_path), "deploy"]
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert command_line(tmp_path, ["deploy"], "/usr/bin/python3")[0] == str(own)


def test_nothing_is_taken_for_a_checkout_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").touch()
    with pytest.raises(EnvironmentFailure, match="neither in a checkout"):
        command_line(tmp_path, [])
