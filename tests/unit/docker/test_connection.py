"""The engine's streams: an error in them is an error here, whatever the HTTP status said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from yrpd.docker import connection as engine
from yrpd.errors import ConfigurationError, EnvironmentFailure, ImageError


def _read(events: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    return engine.read_stream(events, lines.append, what="building x:1"), lines


def test_lines_are_put_together_and_colours_taken_off() -> None:
    result, lines = _read([{"stream": "Step 1\nhal"}, {"stream": "f a \x1b[91mline\x1b[0m\n"}, {"stream": "end"}])
    assert lines == ["Step 1", "half a line", "end"] == result


def test_ticks_of_a_progress_bar_are_not_lines() -> None:
    _, lines = _read(
        [
            {"status": "Pulling fs layer", "progressDetail": {}, "id": "a"},
            {"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "a"},
        ]
    )
    assert lines == ["Pulling fs layer"]


def test_an_engine_that_says_nothing_for_too_long_is_named_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine.TIMEOUT_VARIABLE, "2")

    def events() -> Iterator[dict[str, Any]]:
        yield {"stream": "Step 1\n"}
        raise requests.exceptions.ConnectionError(
            "UnixHTTPConnectionPool(host='localhost', port=None): Read timed out."
        )

    with pytest.raises(ImageError, match="said nothing for 2 s") as caught:
        engine.read_stream(events(), lambda _: None, what="building x:1")
    assert engine.TIMEOUT_VARIABLE in caught.value.message


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_a_limit_that_is_no_number_of_seconds_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(engine.TIMEOUT_VARIABLE, text)
    with pytest.raises(ConfigurationError, match=engine.TIMEOUT_VARIABLE):
        engine.connect()


@pytest.mark.parametrize(
    "event",
    [
        {"errorDetail": {"code": 1, "message": "no space left on device"}, "error": "no space left on device"},
        {"error": "no space left on device"},
    ],
)
def test_an_error_in_the_stream_is_raised_with_the_lines_before_it(event: dict[str, Any]) -> None:
    with pytest.raises(ImageError) as caught:
        _read([{"stream": "Step 1 : RUN x\n"}, event, {"stream": "never read\n"}])
    assert caught.value.message == "Building x:1 failed: no space left on device."
    assert caught.value.detail == "Step 1 : RUN x"
    assert caught.value.exit_code == 6


def test_a_stream_that_breaks_off_is_an_error_that_names_the_log() -> None:
    def events() -> Iterator[dict[str, Any]]:
        yield {"stream": "Step 1\n"}
        raise requests.exceptions.ChunkedEncodingError("connection broken")

    with pytest.raises(ImageError) as caught:
        engine.read_stream(events(), lambda _: None, what="building x:1", log="some.log")
    assert "broke off" in caught.value.message
    assert caught.value.next_command == "less some.log"


def test_the_address_that_the_user_gives_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EnvironmentFailure) as caught:
        engine.connect()
    assert f"{tmp_path}/none.sock" in caught.value.message
    assert caught.value.next_command == "invoke lab.builder"
    assert engine.candidates() == [f"unix://{tmp_path}/none.sock"]


def test_without_one_the_default_engine_is_tried_before_the_labs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert engine.candidates() == [engine.DEFAULT_SOCKET, engine.LAB_SOCKET]


def test_a_countdown_is_one_line() -> None:
    events = [{"status": f"Retrying in {seconds} seconds", "progressDetail": {}} for seconds in (3, 2, 1)]
    assert engine.read_stream([*events, {"status": "Pushed"}], lambda _: None, what="x") == [
        "Retrying in 3 seconds",
        "Pushed",
    ]
