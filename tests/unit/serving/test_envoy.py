"""The endpoint's settings and configuration, as data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.serving import envoy
from yrpd.serving.envoy import Settings, configuration, keys_in, read_keys

PLAIN = Settings("10.0.0.1", 9000, 29001, "127.0.0.1:9001")
HOSTS = st.from_regex(r"10\.0\.0\.[1-9]:[1-9][0-9]{3}", fullmatch=True)


def routes(configured: dict[str, Any], listener: int = 0) -> list[dict[str, Any]]:
    chain = configured["static_resources"]["listeners"][listener]["filter_chains"][0]
    found: list[dict[str, Any]] = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    return found


@given(st.builds(Settings, st.just("h"), st.integers(1, 9), st.integers(1, 9), HOSTS, st.lists(HOSTS).map(tuple)))
def test_settings_survive_a_command_line(settings: Settings) -> None:
    assert Settings.from_text(settings.as_text()) == settings


def test_a_setting_that_is_unknown_is_refused() -> None:
    with pytest.raises(TypeError):
        Settings.from_text('{"address": "h", "port": 1, "metrics_port": 2, "router": "h:3", "prot": 4}')


def test_only_the_api_and_health_reach_the_router() -> None:
    reached = [route["match"] for route in routes(configuration(PLAIN)) if "route" in route]
    assert reached == [{"path": path} for path in (*envoy.OPEN_PATHS, *envoy.API_PATHS)]


def test_the_key_is_asked_for_before_the_api_and_after_health() -> None:
    found = routes(configuration(PLAIN, ["one", "two"]))
    kinds = [route.get("direct_response", {}).get("status", route["match"].get("path")) for route in found]
    assert kinds == ["/health", "/liveness", "/readiness", 401, *envoy.API_PATHS, 404]


def test_a_clients_key_goes_no_further() -> None:
    for key in ("", "engine"):
        for route in routes(configuration(PLAIN, ["client"], key)):
            if "route" in route:
                assert "client" not in json.dumps(route)
                assert ("engine" in json.dumps(route)) is bool(key)
                assert key or route["request_headers_to_remove"] == ["authorization"]


def test_decode_prefills_alone_only_when_it_is_listed() -> None:
    names = [each["name"] for each in configuration(PLAIN)["static_resources"]["clusters"]]
    assert names == ["router", "admin"]
    alone = Settings("h", 1, 2, "h:3", ("h:4",), tries=3)
    configured = configuration(alone)
    assert [each["name"] for each in configured["static_resources"]["clusters"]][2:] == ["decode-alone", "serving"]
    policy = routes(configured)[3]["route"]["retry_policy"]
    assert policy["num_retries"] == policy["retry_priority"]["typed_config"]["update_frequency"] == 3


def test_keys_are_lines_that_say_something(tmp_path: Path) -> None:
    assert keys_in("# whose\na\n\n  b \r\n") == ["a", "b"]
    empty = tmp_path / "keys"
    empty.write_text("# nobody\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no key"):
        read_keys(str(empty))


def test_the_configuration_is_written_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    keys.write_text("s3cret\n", encoding="utf-8")
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _, line: became.append(line))
    settings = Settings("h", 1, 2, "h:3", client_keys=str(keys), folder=str(tmp_path))
    envoy.main([settings.as_text()])
    written = tmp_path / "envoy.json"
    assert written.stat().st_mode & 0o777 == 0o600
    assert "Bearer s3cret" in written.read_text(encoding="utf-8")
    assert "s3cret" not in json.dumps(became) + settings.as_text()
