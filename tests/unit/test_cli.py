"""The manners that all commands share: exit codes, one JSON document, no traceback unless asked."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from yrpd import errors
from yrpd.cli import execute
from yrpd.errors import ConfigurationError, YrpdError
from yrpd.project import Project
from yrpd.reporting import Reporter


def failing(error: BaseException) -> Any:
    def command(project: Project, reporter: Reporter) -> dict[str, Any]:
        raise error

    return command


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigurationError, 2),
        (errors.PinMismatchError, 3),
        (errors.PatchConflictError, 4),
        (errors.BuildError, 5),
        (errors.ImageError, 6),
        (errors.DeployError, 7),
        (errors.EnvironmentFailure, 8),
        (errors.VerificationError, 9),
    ],
)
def test_each_error_class_has_its_exit_code_and_names_the_next_command(
    kind: type[YrpdError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        execute(failing(kind("It broke.", next_command="mend it")), as_json=False, verbose=False)
    assert caught.value.code == code
    said = capsys.readouterr().err
    assert "It broke." in said
    assert "mend it" in said
    assert "Traceback" not in said


def test_json_keeps_stdout_for_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    def command(project: Project, reporter: Reporter) -> dict[str, Any]:
        reporter.say("for people")
        with reporter.step("work"):
            pass
        return {"state": "done"}

    execute(command, as_json=True, verbose=False)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"state": "done"}
    assert "for people" in printed.err


def test_a_failed_report_is_still_printed_as_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.VerificationError("No.", document={"passed": False})
    with pytest.raises(SystemExit):
        execute(failing(error), as_json=True, verbose=False)
    assert json.loads(capsys.readouterr().out) == {"passed": False}


def test_an_error_without_a_report_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        execute(failing(ConfigurationError("No.", next_command="x")), as_json=True, verbose=False)
    assert json.loads(capsys.readouterr().out) == {"error": "No.", "next": "x", "exit_code": 2}


def test_an_unexpected_failure_says_so_in_a_line_and_shows_the_traceback_with_verbose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        execute(failing(ValueError("odd")), as_json=False, verbose=False)
    assert caught.value.code == 1
    quiet = capsys.readouterr().err
    assert "unexpected ValueError: odd" in quiet
    assert "Traceback" not in quiet
    with pytest.raises(SystemExit):
        execute(failing(ValueError("odd")), as_json=False, verbose=True)
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_exits_as_shells_expect() -> None:
    with pytest.raises(SystemExit) as caught:
        execute(failing(KeyboardInterrupt()), as_json=False, verbose=False)
    assert caught.value.code == 130


def test_sigterm_closes_what_is_open_and_exits_as_shells_expect() -> None:
    closed = []

    def command(_: Project, __: Reporter) -> dict[str, Any]:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # a second one leaves nothing open
            closed.append(True)
        return {}

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        execute(command, as_json=False, verbose=False)
    assert caught.value.code == 143
    assert closed == [True]
    assert signal.getsignal(signal.SIGTERM) is before
