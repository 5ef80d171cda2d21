"""A Python that cannot run the commands is told so in one sentence, not by a traceback."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from yrpd.errors import EnvironmentFailure
from yrpd.interpreter import STAMP, require_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("stamped", "stale"), [("the lock", False), ("an older lock", True)])
def test_an_environment_older_than_the_lock_is_refused(tmp_path: Path, stamped: str, stale: bool) -> None:
    (tmp_path / "requirements.lock").write_text("the lock")
    (tmp_path / STAMP).write_text(hashlib.sha256(stamped.encode()).hexdigest() + "\n")
    if stale:
        with pytest.raises(EnvironmentFailure, match=r"made for another requirements\.lock") as caught:
            require_environment(tmp_path, tmp_path)
        assert "scripts/quickstart.sh" in caught.value.next_command
    else:
        require_environment(tmp_path, tmp_path)


def test_an_environment_that_nobody_stamped_may_be_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("the lock")
    require_environment(tmp_path, tmp_path)


def test_a_python_without_the_tools_gets_a_sentence_and_exit_code_8() -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "tasks.py")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 8
    assert "lacks docker" in run.stderr
    assert "next: bash scripts/quickstart.sh" in run.stderr
    assert "Traceback" not in run.stderr
