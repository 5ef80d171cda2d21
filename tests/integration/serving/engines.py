"""Servers that speak as vLLM does and fail when told to: its own HTTP server, with the middleware of P and D."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from yrpd.serving.draining import Draining
from yrpd.serving.pairing import Application, Pairing, Receive, RequestIds, Scope, Send, Settings

CHUNKS = 3


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class Engine:
    """One P or D, on a free port of this machine.

    Attributes:
        name: In its answers.
        draining: The file that takes it out of the endpoint's choice.
        pairing: How it finds P, if it is a D.
        status: What it answers to requests; 0 waits until the client leaves, -1 breaks the connection.
        said: Its body then; its name in vLLM's form when ``None``.
        seen: Headers and body of each request.
        left: Set when a client left while its request waited.
        answers_after: What an answer waits for.
        port: Where it listens.
    """

    name: str
    draining: Path = Path("/nonexistent")
    pairing: Settings | None = None
    status: int = 200
    said: bytes | None = None
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    answers_after: threading.Event = field(default_factory=_set)
    port: int = 0

    @property
    def authority(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of its requests."""
        return [json.loads(body) for _, body in self.seen]

    def application(self) -> Application:
        """Return it behind the middleware that a deployment gives it."""
        paired: Application = Pairing(self._answer, self.pairing) if self.pairing else self._answer
        return Draining(RequestIds(paired), str(self.draining))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        if scope["method"] == "GET":
            await _say(send, 200, json.dumps({"object": "list", "data": [{"id": "m"}]}).encode())
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append((headers, body))
        if self.status == 0:
            assert (await receive())["type"] == "http.disconnect"
            self.left.set()
            return
        await asyncio.to_thread(self.answers_after.wait)
        if self.status == -1:
            scope["yrpd.test.transport"]().abort()
        elif self.status != 200:
            said = json.dumps({"object": "error", "message": self.name}).encode() if self.said is None else self.said
            await _say(send, self.status, said)
        elif b'"stream": true' in body:
            await _stream(send)
        else:
            choice = {"index": 0, "text": self.name, "finish_reason": "stop"}
            await _say(send, 200, json.dumps({"id": headers["x-request-id"], "choices": [choice]}).encode())


async def _say(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(CHUNKS):
        await send({"type": "http.response.body", "body": f"data: {number}\n\n".encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def serve(engine: Engine) -> uvicorn.Server:
    """Return its server; ``run`` serves."""
    inner = engine.application()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        # The way to the connection that an application has not: what a process that dies does to it.
        scope["yrpd.test.transport"] = lambda: receive.__self__.transport  # type: ignore[attr-defined]
        await inner(scope, receive, send)

    config = uvicorn.Config(application, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
    return uvicorn.Server(config)


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """Serve for as long as the block runs."""
    with socket.create_server(("127.0.0.1", engine.port), backlog=256) as listening:
        engine.port = listening.getsockname()[1]
        server = serve(engine)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            engine.answers_after.set()
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as own:
        serve(Engine(sys.argv[1], status=0)).run([own])
