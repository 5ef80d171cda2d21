"""The middleware that takes a vLLM out of the endpoint's choice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from yrpd.serving.draining import Draining
from yrpd.serving.pairing import Message, Receive, Scope, Send


async def vllm(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def nothing() -> Message:
    return {"type": "http.request"}


@pytest.mark.parametrize(
    ("path", "drained", "status"),
    [("/health", False, 200), ("/health", True, 503), ("/v1/completions", True, 200)],
)
def test_health_alone_says_no_while_it_is_drained(path: str, drained: bool, status: int, tmp_path: Path) -> None:
    file = tmp_path / "draining"
    if drained:
        file.touch()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Draining(vllm, str(file))({"type": "http", "path": path}, nothing, send))
    assert sent[0]["status"] == status


def test_requests_are_counted_until_they_end_however_they_end(tmp_path: Path) -> None:
    file = tmp_path / "draining"
    file.touch()
    told: list[int] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await health()
        if scope["path"] == "/v1/broken":
            raise ConnectionResetError

    drained = Draining(slow, str(file))

    async def ignore(message: Message) -> None:
        if "body" in message:
            told.append(json.loads(message["body"])["unfinished"])

    async def health() -> None:
        await drained({"type": "http", "path": "/health"}, nothing, ignore)

    async def ask() -> None:
        await drained({"type": "http", "path": "/v1/completions"}, nothing, ignore)
        with contextlib.suppress(ConnectionResetError):
            await drained({"type": "http", "path": "/v1/broken"}, nothing, ignore)
        await health()

    asyncio.run(ask())
    assert told == [1, 1, 0]
