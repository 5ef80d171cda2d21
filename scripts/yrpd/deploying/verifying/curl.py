"""The line to try the endpoint with: the tutorial's own request, with what the endpoint asks for. Pure."""

from __future__ import annotations

import json
import shlex
from urllib.parse import urlsplit

from yrpd.deploying.verifying.questions import COMPLETIONS, tutorial_request

# The first key of a file, as the endpoint reads it: neither an empty line nor one that begins with `#`.
_FIRST_KEY = "awk '$1 ~ /^[^#]/ {print $1; exit}'"


def curl_line(endpoint: str, model: str, *, key: str = "", ca: str = "") -> str:
    """Return the line.

    Args:
        endpoint: Where clients send requests, without a path.
        model: The served name.
        key: Shell words that print a client's key, see :func:`key_command`; empty when the endpoint asks for none.
        ca: File with who signed the endpoint's certificate; empty takes those that the machine trusts.
    """
    words = ["curl", *(["--cacert", shlex.quote(ca)] if ca else []), "-X", "POST", f"{endpoint}{COMPLETIONS}"]
    if key:
        words += ["-H", f'"Authorization: Bearer {key}"']
    body = json.dumps(tutorial_request(model), ensure_ascii=False)
    return " ".join([*words, "-H", "'Content-Type: application/json'", "-d", shlex.quote(body)])


def key_command(engine: str, file: str) -> str:
    """Return shell words that print a client's key, so that no key is ever shown in a line to type.

    Args:
        engine: Docker address of the host that has the file.
        file: The keys' file on that host.
    """
    address = urlsplit(engine)
    if address.scheme == "unix":
        return f"$({_FIRST_KEY} {shlex.quote(file)})"
    if address.scheme == "ssh":
        port = f"-p {address.port} " if address.port else ""
        user = f"{address.username}@" if address.username else ""
        return f"$(ssh {port}{user}{address.hostname} cat {shlex.quote(file)} | {_FIRST_KEY})"
    return "$OPENAI_API_KEY"  # a tcp:// engine gives no way to its host's files
