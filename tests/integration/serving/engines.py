"""Servers that speak as vLLM does and fail when told to: what a real P or D does not do on demand."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNKS = 3


@dataclass
class Engine:
    """One P or D, on a free port of this machine.

    Attributes:
        name: In its answers.
        status: What it answers to requests; 0 waits until the client leaves.
        healthy: What it says of itself.
        seen: Headers and body of each request.
        left: Set when a client left while its request waited.
        port: Where it listens.
    """

    name: str
    status: int = 200
    healthy: bool = True
    seen: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def authority(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """Serve for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            if self.path == "/health":
                self._answer(200 if engine.healthy else 503, b"")
            else:
                self._answer(200, json.dumps({"object": "list", "data": [{"id": "m"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            engine.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
            if engine.status == 0:
                select.select([self.connection], [], [], 60)
                engine.left.set()
                self.close_connection = True
            elif engine.status != 200:
                self._answer(engine.status, json.dumps({"object": "error", "message": engine.name}).encode())
            elif body.get("stream"):
                self._stream()
            else:
                choice = {"index": 0, "text": engine.name, "finish_reason": "stop"}
                self._answer(200, json.dumps({"id": "x", "model": "m", "choices": [choice]}).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for number in range(CHUNKS):
                self.wfile.write(f"data: {number}\n\n".encode())
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        engine.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            thread.join()
