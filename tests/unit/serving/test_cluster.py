"""The command lines of ``yr start``, of the tutorial's release and of the present one."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from yrpd.serving.cluster import Settings, dialect, start_line

FIRST = Settings("10.0.0.1", "10.0.0.1", 22440, 22441, 12123, 31501, 1024, "/run/uds", "/ready", {"v": "1"})
SECOND = replace(FIRST, address="10.0.0.2")


def values(line: list[str]) -> dict[str, object]:
    """Return what the settings of a line say, each a value of TOML."""
    pairs = [line[place + 1].split("=", 1) for place, word in enumerate(line) if word == "-s"]
    return {name: tomllib.loads(f"it = {value}")["it"] for name, value in pairs}


def test_settings_survive_a_command_line() -> None:
    assert Settings.from_text(SECOND.as_text()) == SECOND


def test_which_flags_a_yr_understands_is_read_from_its_help() -> None:
    assert dialect("  -s, --set KEY=VALUE    Override config values") == "settings"
    assert dialect("  --etcd_addr_list TEXT  --etcd_port") == "flags"
    with pytest.raises(ValueError, match="is not known"):
        dialect("Usage: yr start")


def test_the_first_host_is_the_master_and_all_know_its_etcd() -> None:
    assert "--master" in start_line(FIRST, "settings")
    assert "--master" not in start_line(SECOND, "settings")
    first, second = values(start_line(FIRST, "settings")), values(start_line(SECOND, "settings"))
    assert (
        first["values.etcd.address"]
        == second["values.etcd.address"]
        == [{"ip": "10.0.0.1", "peer_port": 22441, "port": 22440}]
    )
    assert second["values.ds_master"] == {"ip": "10.0.0.1", "port": 12123}
    assert (first["values.host_ip"], second["values.host_ip"]) == ("10.0.0.1", "10.0.0.2")
    assert second["ds_worker.args.unix_domain_socket_dir"] == "/run/uds"
    assert second["ds_worker.args.v"] == "1"


def test_the_function_system_is_left_out_of_the_mode_that_is_started() -> None:
    def left_out(settings: Settings) -> list[str]:
        return [name for name, value in values(start_line(settings, "settings")).items() if value is False]

    assert left_out(FIRST) == [f"mode.master.function_{part}" for part in ("master", "proxy", "agent")]
    assert left_out(SECOND) == [f"mode.agent.function_{part}" for part in ("proxy", "agent")]
    assert left_out(replace(FIRST, functions=True)) == []


def test_the_tutorials_own_flags_are_written_for_a_yr_of_its_time() -> None:
    line = start_line(replace(FIRST, log_level="DEBUG"), "flags")
    assert " ".join(line).startswith(
        "yr start --master -l DEBUG --runtime_direct_connection_enable=true "
        "--enable_separated_redirect_runtime_std=true --etcd_addr_list=10.0.0.1 "
        "--etcd_port=22440 --etcd_peer_port=22441"
    )
    assert "--master" not in start_line(SECOND, "flags")
