"""What pip is configured with."""

from __future__ import annotations

from pathlib import Path

from pypi_simple import PYPI_SIMPLE_ENDPOINT

from yrpd.wheels.package_index import IndexSettings, open_session, settings_from, without_credentials
from yrpd.wheels.pip_config import from_environment, parse_config, uv_environment, uv_options


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


def test_the_default_is_the_librarys_default_index() -> None:
    assert settings_from({}) == IndexSettings(indexes=(PYPI_SIMPLE_ENDPOINT,))


def test_extra_indexes_come_after_the_index() -> None:
    settings = settings_from({"index-url": "http://a", "extra-index-url": "http://b\nhttp://c"})
    assert settings.indexes == ("http://a", "http://b", "http://c")


def test_no_index_leaves_the_local_folders() -> None:
    settings = settings_from({"no-index": "true", "find-links": "/wheels file:///more http://h/page"})
    assert settings.indexes == ()
    assert settings.find_links == (Path("/wheels"), Path("/more"))


def test_certificates_proxy_and_timeout_are_taken_over() -> None:
    settings = settings_from({"cert": "/ca.pem", "proxy": "http://p:1", "default-timeout": "7"})
    assert (settings.verify, settings.proxy, settings.timeout) == ("/ca.pem", "http://p:1", 7.0)


def test_variables_are_options_where_pip_is_not_there_to_ask() -> None:
    environment = {"PIP_INDEX_URL": "http://a", "PIP_NO_INDEX": "", "OTHER": "x"}
    assert from_environment(environment) == {"index-url": "http://a"}


def test_an_address_is_shown_without_its_password() -> None:
    assert without_credentials("https://user:secret@host:1/simple/") == "https://host:1/simple/"
    assert without_credentials("file:///simple") == "file:///simple"


def test_certificates_of_trusted_hosts_are_not_checked_and_of_no_others() -> None:
    settings = settings_from({"trusted-host": "mirror.example other.example:8443", "client-cert": "/me.pem"})
    assert settings.trusted == ("mirror.example", "other.example:8443")
    with open_session(settings) as session:
        assert session.cert == "/me.pem"
        usual = session.get_adapter("https://example.com/simple/")
        for address in ("https://mirror.example/x", "https://mirror.example:444/x", "https://other.example:8443/x"):
            assert session.get_adapter(address) is not usual
        for address in ("https://mirror.example.com/x", "https://other.example/x"):
            assert session.get_adapter(address) is usual


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
    assert uv_options(options) == [
        "--index-strategy", "unsafe-best-match", "--default-index", "https://one/simple",
        "--index", "https://two/simple", "--index", tmp_path.as_uri(),
        "--find-links", str(tmp_path), "--find-links", "https://three/files",
        "--allow-insecure-host", "one", "--allow-insecure-host", "two:8080",
    ]  # fmt: skip
    assert uv_environment(options) == {
        "SSL_CERT_FILE": "/etc/bundle.pem",
        "SSL_CLIENT_CERT": "/etc/client.pem",
        "HTTPS_PROXY": "http://proxy:3128",
        "HTTP_PROXY": "http://proxy:3128",
        "UV_HTTP_TIMEOUT": "180",
    }


def test_uv_asks_no_index_where_pip_is_to_ask_none(tmp_path: Path) -> None:
    options = {"no-index": "true", "index-url": "https://one/simple", "find-links": str(tmp_path)}
    assert uv_options(options) == [
        "--index-strategy", "unsafe-best-match", "--no-index", "--find-links", str(tmp_path),
    ]  # fmt: skip
    assert uv_environment({}) == {}
