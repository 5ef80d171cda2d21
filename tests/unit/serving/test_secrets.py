"""Variables out of files, for a program that takes this one's place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.serving import command_lines
from yrpd.serving.secrets import read_secrets, split

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "yrpd.serving.secrets", *arguments],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_sees_the_content_and_its_command_line_does_not(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    program = "import os, sys; print(os.environ['KEY'], open('/proc/self/cmdline').read())"
    done = run(f"KEY={tmp_path / 'key'}", "--", sys.executable, "-c", program)
    value, _, line = done.stdout.partition(" ")
    assert value == "s3cret"
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("KEY=/no/such/file", "--", "true"), "No such file"),
        (("KEY", "--", "true"), "expected NAME=FILE, got 'KEY'"),
        (("KEY=/dev/null", "--", "true"), "the secret file /dev/null for KEY is empty"),
        (("KEY=/dev/null",), "expected NAME=FILE ... -- PROGRAM"),
    ],
)
def test_what_cannot_be_read_ends_before_the_program_starts(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@given(
    st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), st.just("/f")),
    st.lists(st.text(min_size=1), min_size=1),
)
def test_the_planners_line_is_one_that_it_understands(files: dict[str, str], program: list[str]) -> None:
    line = command_lines.with_secrets(files, tuple(program))
    if not files:
        assert line == tuple(program)
        return
    assignments, rest = split(line[3:])
    assert rest == program
    assert assignments == [f"{name}=/f" for name in sorted(files)]


def test_only_the_line_end_is_taken_off(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" a b \r\n")
    assert read_secrets([f"K={tmp_path / 'key'}"]) == {"K": " a b "}
