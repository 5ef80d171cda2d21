"""What pip is configured with."""

from __future__ import annotations

from pathlib import Path

import pytest

from yrpd.wheels.package_index import open_index
from yrpd.wheels.pip_config import find_links, from_environment, index_addresses, parse_config, uv_environment


def test_pips_scopes_win_in_pips_order() -> None:
    text = "install.index-url='http://install'\n:env:.index-url='http://env'\nglobal.index-url='http://global'\n"
    assert parse_config(text) == {"index-url": "http://env"}
    assert parse_config(text.replace(":env:", "wheel")) == {"index-url": "http://install"}


def test_values_with_quotes_and_equal_signs_survive() -> None:
    assert parse_config("global.index-url='http://h/?a=b'\nglobal.x=\"it's\"\n") == {
        "index-url": "http://h/?a=b",
        "x": "it's",
    }


def test_lines_that_are_no_options_are_left_out() -> None:
    assert parse_config("WARNING: something\n\nglobal.timeout='5'\n") == {"timeout": "5"}


def test_extra_indexes_come_after_the_index() -> None:
    assert index_addresses({}, "http://default") == ["http://default"]
    options = {"index-url": "http://a", "extra-index-url": "http://b\nhttp://c"}
    assert index_addresses(options, "http://default") == ["http://a", "http://b", "http://c"]


def test_no_index_leaves_the_folders_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    options = {
        "no-index": "true",
        "index-url": "http://a",
        "find-links": f"/nowhere {tmp_path.as_uri()} ~/own http://h/p",
    }
    assert index_addresses(options, "http://default") == []
    assert find_links(options) == [tmp_path.as_uri(), str(tmp_path / "own"), "http://h/p"]


def test_without_a_configured_place_nothing_is_looked_at() -> None:
    with open_index({"no-index": "1"}) as index:
        assert index.find("pip") == []
        assert str(index) == "nowhere, since pip is told to use no index and no folder"


def test_the_timeout_is_taken_over() -> None:
    with open_index({"default-timeout": "7"}) as index:
        assert (index.client.timeout.read, index.client.timeout.connect) == (7.0, 7.0)
    with open_index({"timeout": "60"}) as index:
        assert (index.client.timeout.read, index.client.timeout.connect) == (60.0, 10.0)


def test_variables_are_options_where_pip_is_not_there_to_ask() -> None:
    environment = {"PIP_INDEX_URL": "http://a", "PIP_NO_INDEX": "", "OTHER": "x"}
    assert from_environment(environment) == {"index-url": "http://a"}


def test_an_address_is_shown_without_its_password() -> None:
    with open_index({"index-url": "https://user:secret@host:1/simple/", "extra-index-url": "file:///simple"}) as index:
        assert "host:1/simple/, file:///simple" in str(index)
        assert "secret" not in str(index)


def test_uv_is_told_what_pip_is_configured_with(tmp_path: Path) -> None:
    options = {
        "index-url": "https://one/simple",
        "extra-index-url": f"https://two/simple {tmp_path.as_uri()} file:///nowhere/simple",
        "find-links": f"{tmp_path} /nowhere https://three/files",
        "trusted-host": "one two:8080",
        "cert": "/etc/bundle.pem",
        "client-cert": "/etc/client.pem",
        "proxy": "http://proxy:3128",
        "default-timeout": "180",
    }
    assert uv_environment(options) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://one/simple",
        "UV_INDEX": f"https://two/simple {tmp_path.as_uri()}",
        "UV_FIND_LINKS": f"{tmp_path},https://three/files",
        "UV_INSECURE_HOST": "one two:8080",
        "SSL_CERT_FILE": "/etc/bundle.pem",
        "SSL_CLIENT_CERT": "/etc/client.pem",
        "HTTPS_PROXY": "http://proxy:3128",
        "HTTP_PROXY": "http://proxy:3128",
        "UV_HTTP_TIMEOUT": "180",
    }


def test_uv_asks_no_index_where_pip_is_to_ask_none(tmp_path: Path) -> None:
    options = {"no-index": "true", "index-url": "https://one/simple", "find-links": str(tmp_path)}
    assert uv_environment(options) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(tmp_path),
    }
    assert uv_environment({}) == {"UV_INDEX_STRATEGY": "unsafe-best-match"}
