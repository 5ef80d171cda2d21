"""The line to try the endpoint with can be typed as it is, also where the endpoint has keys and TLS."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from yrpd.deploying.verifying.curl import curl_line, key_command

KEYS = "# the clients' keys\n\n  first-key\nsecond-key\n"


def typed(line: str, environment: dict[str, str] | None = None) -> list[str]:
    """Return the words that a shell hands to curl; ssh runs its command on this machine."""
    told = (
        "curl() { printf '%s\\0' \"$@\"; }; "
        'ssh() { while [ "$1" != cat ]; do echo "$1" >>"$ASKED"; shift; done; "$@"; }; '
    )
    done = subprocess.run(
        ["bash", "-c", told + line],
        capture_output=True,
        check=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **(environment or {})},
    )
    return done.stdout.split("\0")[:-1]


def test_without_keys_and_tls_it_is_the_tutorials_request() -> None:
    words = typed(curl_line("http://h:9000", "m"))
    assert words[:-1] == ["-X", "POST", "http://h:9000/v1/completions", "-H", "Content-Type: application/json", "-d"]
    assert json.loads(words[-1]) == {
        "model": "m",
        "prompt": "介绍一下北京故宫，从地理位置、历史地位以及政治地位角度来说明",
        "max_tokens": 50,
        "temperature": 0,
    }


def test_a_key_and_the_authority_are_in_the_line_where_the_endpoint_has_them(tmp_path: Path) -> None:
    keys = tmp_path / "the keys"
    keys.write_text(KEYS)
    line = curl_line(
        "https://h:9000", "it's m", key=key_command("unix:///run/docker.sock", str(keys)), ca="/etc/my ca.pem"
    )
    assert "first-key" not in line, "a key is never shown"
    words = typed(line)
    assert words[:2] == ["--cacert", "/etc/my ca.pem"]
    assert "Authorization: Bearer first-key" in words
    assert json.loads(words[words.index("-d") + 1])["model"] == "it's m"


def test_a_key_on_another_host_is_read_there_over_ssh(tmp_path: Path) -> None:
    keys, asked = tmp_path / "keys", tmp_path / "asked"
    keys.write_text(KEYS)
    line = curl_line("http://h:9000", "m", key=key_command("ssh://root@h1:2222", str(keys)))
    assert "Authorization: Bearer first-key" in typed(line, {"ASKED": str(asked)})
    assert asked.read_text().split() == ["-p", "2222", "root@h1"]


def test_a_key_that_cannot_be_read_from_here_is_a_variable() -> None:
    line = curl_line("http://h:9000", "m", key=key_command("tcp://h1:2376", "/etc/keys"))
    assert "Authorization: Bearer mine" in typed(line, {"OPENAI_API_KEY": "mine"})


@pytest.mark.parametrize("engine", ["unix:///x", "ssh://h", "tcp://h:1"])
def test_the_line_is_one_line(engine: str) -> None:
    assert "\n" not in curl_line("http://h:9000", "m", key=key_command(engine, "/etc/keys"), ca="/ca.pem")
