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
from yrpd.serving.envoy import Settings, configuration, keys_in, members, read_keys
from yrpd.serving.pairing import PATHS

PLAIN = Settings("10.0.0.1", 9000, 29001, 9001)


def routes(configured: dict[str, Any], listener: int = 0) -> list[dict[str, Any]]:
    chain = configured["static_resources"]["listeners"][listener]["filter_chains"][0]
    found: list[dict[str, Any]] = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    return found


def clusters(settings: Settings) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in configuration(settings)["static_resources"]["clusters"]}


@given(st.builds(Settings, st.just("h"), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
def test_settings_survive_a_command_line(settings: Settings) -> None:
    assert Settings.from_text(settings.as_text()) == settings


def test_a_setting_that_is_unknown_is_refused() -> None:
    with pytest.raises(TypeError):
        Settings.from_text('{"address": "h", "port": 1, "metrics_port": 2, "prefill_port": 3, "prot": 4}')


def test_only_the_api_and_health_reach_a_d() -> None:
    reached = [route["match"] for route in routes(configuration(PLAIN)) if "route" in route]
    assert reached == [{"path": path} for path in (*envoy.OPEN_PATHS, *envoy.API_PATHS)]


def test_a_p_is_asked_for_what_has_a_copy_and_nothing_else() -> None:
    *reached, last = routes(configuration(PLAIN), 2)
    assert {route["match"]["path"] for route in reached} == {*PATHS}
    assert {route["match"]["headers"][0]["string_match"]["exact"] for route in reached} == {"POST"}
    assert last["direct_response"]["status"] == 404


def test_the_key_is_asked_for_before_the_api_and_after_health_and_what_a_browser_asks_first() -> None:
    found = routes(configuration(PLAIN, ["one", "two"]))
    kinds = [route.get("direct_response", {}).get("status", route["match"].get("path")) for route in found]
    assert kinds == [*envoy.OPEN_PATHS, *envoy.API_PATHS, 401, *envoy.API_PATHS, *[400] * len(envoy.OTHER_PATHS), 404]
    asked_first = found[len(envoy.OPEN_PATHS) : kinds.index(401)]
    assert {route["match"]["headers"][0]["string_match"]["exact"] for route in asked_first} == {"OPTIONS"}


def test_a_clients_key_goes_no_further() -> None:
    for key in ("", "engine"):
        for route in routes(configuration(PLAIN, ["client"], key)):
            if "route" in route:
                assert "client" not in json.dumps(route)
                assert ("engine" in json.dumps(route)) is bool(key)
                assert key or route["request_headers_to_remove"] == ["authorization"]


def test_no_clock_ends_an_answer_and_what_an_engine_says_is_tried_again_nowhere() -> None:
    for listener, last in ((0, "retriable-headers"), (2, "retriable-status-codes")):
        for route in routes(configuration(PLAIN, (), "key"), listener):
            if "retry_policy" in route.get("route", {}):
                policy = route["route"]["retry_policy"]
                assert route["route"]["timeout"] == "0s"
                assert not [name for name in policy if "timeout" in name]
                assert policy["retry_on"] == f"connect-failure,refused-stream,reset,{last}"
                assert policy.get("retriable_status_codes", [503]) == [503]
                assert policy["num_retries"] == PLAIN.tries - 1


def test_p_and_d_are_in_files_that_are_read_again() -> None:
    for role in ("prefill", "decode"):
        source = clusters(PLAIN)[role]["eds_cluster_config"]["eds_config"]["path_config_source"]
        assert source == {"path": f"{envoy.LIVE}/{role}.json", "watched_directory": {"path": envoy.LIVE}}
    (resource,) = json.loads(members("decode", ["10.0.0.2:8200", "[fd00::2]:8200"]))["resources"]
    assert resource["cluster_name"] == "decode"
    hosts = [each["endpoint"]["address"]["socket_address"] for each in resource["endpoints"][0]["lb_endpoints"]]
    assert [(host["address"], host["port_value"]) for host in hosts] == [("10.0.0.2", 8200), ("fd00::2", 8200)]


def test_policies_of_p_and_d_are_envoys() -> None:
    told = clusters(Settings("h", 1, 2, 3, prefill_policy="consistent_hash", decode_policy="power_of_two"))
    assert (told["prefill"]["lb_policy"], told["decode"]["lb_policy"]) == ("RING_HASH", "LEAST_REQUEST")


def test_what_d_asks_for_stays_open_while_the_endpoint_is_drained() -> None:
    directions = {
        each["name"]: each.get("traffic_direction") for each in configuration(PLAIN)["static_resources"]["listeners"]
    }
    assert directions == {"endpoint": "INBOUND", "metrics": "INBOUND", "prefill": None}


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
    settings = Settings("h", 1, 2, 3, client_keys=str(keys), folder=str(tmp_path))
    envoy.main([settings.as_text()])
    written = tmp_path / "envoy.json"
    assert written.stat().st_mode & 0o777 == 0o600
    assert "Bearer s3cret" in written.read_text(encoding="utf-8")
    assert "s3cret" not in json.dumps(became) + settings.as_text()
