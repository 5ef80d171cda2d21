"""The line to try the endpoint with can be typed as it is, also where the endpoint has keys and TLS."""

from __future__ import annotations

import json
import subprocess

from yrpd.deploying.verifying.curl import curl_line


def typed(line: str, environment: dict[str, str] | None = None) -> list[str]:
    """Return the words that a shell hands to curl."""
    told = "curl() { printf '%s\\0' \"$@\"; }; "
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


def test_the_key_is_the_clients_variable_and_the_authority_is_in_the_line() -> None:
    line = curl_line("https://h:9000", "it's m", key=True, ca="/etc/my ca.pem")
    assert "\n" not in line
    words = typed(line, {"OPENAI_API_KEY": "mine"})
    assert words[:2] == ["--cacert", "/etc/my ca.pem"]
    assert "Authorization: Bearer mine" in words
    assert json.loads(words[words.index("-d") + 1])["model"] == "it's m"
