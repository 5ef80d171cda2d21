"""docker/check_cann.sh: the base's CANN is the one that the DataSystem's client was chosen for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from yrpd.project import Project

SCRIPT = Project.here().docker / "check_cann.sh"
FOLDER = "/usr/local/Ascend/ascend-toolkit/latest"


def check(folder: Path, expected: str) -> subprocess.CompletedProcess[str]:
    text = SCRIPT.read_text(encoding="utf-8")
    assert FOLDER in text
    program = text.replace(FOLDER, str(folder))
    return subprocess.run(["sh", "-c", program, "check_cann.sh", expected], capture_output=True, text=True, check=False)


def install(folder: Path, version: str) -> None:
    file = folder / "aarch64-linux" / "ascend_toolkit_install.info"
    file.parent.mkdir(parents=True)
    file.write_text(f"package_name=Ascend-cann-toolkit\nversion={version}\ninnerversion=V100R001C22\narch=aarch64\n")


@pytest.mark.parametrize("version", ["8.2.RC1", "8.2.RC2", "8.2.0"])
def test_the_cann_of_the_release_file_is_found(tmp_path: Path, version: str) -> None:
    install(tmp_path, version)
    done = check(tmp_path, "8.2.RC1")
    assert (done.returncode, done.stdout) == (0, f"CANN {version}\n")


def test_another_cann_ends_the_build_and_names_what_to_change(tmp_path: Path) -> None:
    install(tmp_path, "8.5.0")
    done = check(tmp_path, "8.2.RC1")
    assert done.returncode == 1
    assert "the base has CANN 8.5.0, release.toml says 8.2.RC1: set cann there" in done.stderr


def test_a_base_that_does_not_tell_is_taken_at_the_release_files_word(tmp_path: Path) -> None:
    done = check(tmp_path / "missing", "8.2.RC1")
    assert done.returncode == 0
    assert "release.toml says 8.2.RC1" in done.stdout
