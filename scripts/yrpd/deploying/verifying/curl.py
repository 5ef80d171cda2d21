"""The line to try the endpoint with: the tutorial's own request, with what the endpoint asks for. Pure."""

from __future__ import annotations

import json
import shlex

from yrpd.deploying.verifying.questions import COMPLETIONS, tutorial_request


def curl_line(endpoint: str, model: str, *, key: bool = False, ca: str = "") -> str:
    """Return the line.

    Args:
        endpoint: Where clients send requests, without a path.
        model: The served name.
        key: Whether the endpoint asks for one; the line takes it from ``OPENAI_API_KEY``, as clients do.
        ca: File with who signed the endpoint's certificate; empty takes those that the machine trusts.
    """
    words = ["curl", *(["--cacert", shlex.quote(ca)] if ca else []), "-X", "POST", f"{endpoint}{COMPLETIONS}"]
    if key:
        words += ["-H", '"Authorization: Bearer $OPENAI_API_KEY"']
    body = json.dumps(tutorial_request(model), ensure_ascii=False)
    return " ".join([*words, "-H", "'Content-Type: application/json'", "-d", shlex.quote(body)])
