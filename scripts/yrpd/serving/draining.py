"""Takes a vLLM out of the endpoint's choice before it is stopped: middleware of its HTTP server.

vLLM ends at SIGTERM with the requests that it has. Envoy chooses among those whose ``/health`` answers 200; while
a file exists this one answers 503 there, with how many requests are unfinished, and serves what it has and gets. vLLM's
own gauges do not tell: they stand still while no request is computed.
"""

from __future__ import annotations

import json
import os

from yrpd.serving.command_lines import DRAINING
from yrpd.serving.pairing import Application, Receive, Scope, Send

HEALTH = "/health"
# Asked by operators and the endpoint, and over at once.
NOT_COUNTED = frozenset({HEALTH, "/metrics", "/ping", "/version", "/load", "/v1/models"})


class Draining:
    """ASGI middleware.

    Args:
        app: What it wraps.
        file: While it exists, this server is being drained.
    """

    def __init__(self, app: Application, file: str = DRAINING) -> None:
        self.app = app
        self.file = file
        self.unfinished = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on and count."""
        path = scope.get("path", "")
        if scope["type"] != "http" or (path in NOT_COUNTED and path != HEALTH):
            await self.app(scope, receive, send)
        elif path != HEALTH:
            self.unfinished += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.unfinished -= 1
        elif os.path.exists(self.file):
            body = json.dumps({"unfinished": self.unfinished}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self.app(scope, receive, send)
