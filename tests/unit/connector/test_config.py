"""Settings are validated once, at start, and secrets never show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from yuanrong.config import Address, ConfigError, ConnectorConfig

WORKER = {"worker_address": "10.0.0.1:31501"}


def make(
    extra: dict[str, Any] | None = None, role: str = "kv_both", env: dict[str, str] | None = None
) -> ConnectorConfig:
    return ConnectorConfig.from_extra({**WORKER, **(extra or {})}, role, env or {})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("h:1", "h", 1),
        ("10.0.0.1:31501", "10.0.0.1", 31501),
        ("[::1]:65535", "::1", 65535),
        (" [fe80::1%eth0]:9 ", "fe80::1%eth0", 9),
    ],
)
def test_addresses_of_both_families_are_read(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["h", "h:", ":1", "h:0", "h:65536", "::1:5", "[::1]", "h:x", "a b:1"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="worker_address"):
        Address.parse(text)


def test_defaults_follow_the_role() -> None:
    producer, consumer, both = (make(role=r) for r in ("kv_producer", "kv_consumer", "kv_both"))
    assert producer.saves
    assert producer.saves_before_answer
    assert producer.load
    assert not consumer.saves
    assert consumer.load
    assert both.saves
    assert not both.saves_before_answer


def test_save_mode_can_be_chosen() -> None:
    assert not make({"save_mode": "async"}, "kv_producer").saves_before_answer
    assert make({"save_mode": "sync-last"}).saves_before_answer


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"nonsense": 1}, "nonsense"), ({"role": "kv_both"}, "role"), ({"credentials": "x"}, "credentials"),
        ({"load": "yes"}, "load"), ({"load_threads": True}, "load_threads"), ({"load_threads": 0}, "load_threads"),
        ({"copy_threads": 0}, "copy_threads"),
        ({"ttl_seconds": -1}, "ttl_seconds"), ({"transport": "smoke"}, "transport"), ({"save_mode": "x"}, "save_mode"),
        ({"checksum": "md5"}, "checksum"), ({"tag": "a b"}, "tag"), ({"worker_address": "nowhere"}, "worker_address"),
        ({"token_file": "/does/not/exist"}, "token_file"), ({"load_timeout_ms": 1.5}, "load_timeout_ms"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(extra: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make(extra)


def test_a_consumer_that_does_not_load_is_refused() -> None:
    with pytest.raises(ConfigError, match="load"):
        make({"load": False}, "kv_consumer")


def test_the_worker_comes_from_the_environment_unless_given() -> None:
    assert ConnectorConfig.from_extra({}, "kv_both", {"DS_WORKER_ADDR": "h:7"}).worker_address == Address("h", 7)
    assert make(env={"DS_WORKER_ADDR": "h:7"}).worker_address == Address("10.0.0.1", 31501)
    with pytest.raises(ConfigError, match="DS_WORKER_ADDR"):
        ConnectorConfig.from_extra({}, "kv_both", {})


def test_the_tutorials_switch_turns_a_prefill_engines_matching_off() -> None:
    off = {"USING_PREFIX_CONNECTOR": "0"}
    assert not make(role="kv_producer", env=off).load
    assert make(role="kv_producer", env={"USING_PREFIX_CONNECTOR": "1"}).load
    assert make({"load": True}, "kv_producer", off).load
    assert make(role="kv_consumer", env=off).load


def test_credentials_come_from_files_and_environment_and_are_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("t0ps3cret\n")
    config = make(
        {"token_file": str(secret)},
        env={
            "YUANRONG_DS_TOKEN": "ignored",
            "YUANRONG_DS_SECRET_KEY": "hush",
            "YUANRONG_DS_TENANT_ID_FILE": str(secret),
        },
    )
    assert config.credentials.as_kwargs() == {"token": "t0ps3cret", "secret_key": "hush", "tenant_id": "t0ps3cret"}
    assert "t0ps3cret" not in repr(config)
    assert "hush" not in f"{config} {config.credentials!r} {config.credentials}"
