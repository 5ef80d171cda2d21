"""Lets a P compute a prompt's KV blocks before this D answers: middleware of D's HTTP server.

The request that D answers is the client's, untouched. P gets a copy with what decides the prompt's tokens and blocks,
and one token to answer; what it answers is thrown away. Which P it is, and whether another one is tried, is the
endpoint's business (:mod:`yrpd.serving.envoy`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Path to the field that bounds an answer's tokens there.
PATHS: Mapping[str, str] = {
    "/v1/completions": "max_tokens",
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/responses": "max_output_tokens",
}
# What decides a prompt's tokens and blocks, whichever path has it. All else shapes the answer, or is not known.
_PROMPT = (
    "model",
    "prompt",
    "prompt_embeds",
    "messages",
    "input",
    "instructions",
    "tools",
    "documents",
    "reasoning",
    "reasoning_effort",
    "chat_template",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "truncate_prompt_tokens",
    "mm_processor_kwargs",
    "cache_salt",
    "priority",
)
_PASSED = (b"authorization", b"x-session-id", b"traceparent", b"tracestate")
VARIABLE = "YRPD_PAIRING"
RETRY = "x-yrpd-retry"
ID = b"x-request-id"
CLIENTS_ID = "yrpd.request_id"

_log = logging.getLogger("vllm.yrpd.pairing")  # below vLLM's own, for its form


@dataclass(frozen=True)
class Settings:
    """How a D finds P, in its variable :data:`VARIABLE`.

    Attributes:
        prefill: URL of the endpoint's listener for P.
        decode_alone: Whether D computes the prompt itself when no P did.
        retry_after_s: What a client is told to wait after 503.
    """

    prefill: str
    decode_alone: bool = False
    retry_after_s: int = 5

    def as_text(self) -> str:
        """Return what :meth:`from_text` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Settings:
        """Read settings."""
        return cls(**json.loads(text))


def prefill_copy(path: str, body: bytes) -> bytes | None:
    """Return what P is asked for a request; ``None`` where its blocks would serve nothing, and D answers alone. Pure.

    Args:
        path: Of the request, one of :data:`PATHS`.
        body: As the client sent it.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None  # vLLM says what is wrong with it
    if not isinstance(request, dict) or _is_for_decode_alone(request):
        return None
    copy = {name: request[name] for name in _PROMPT if name in request}
    if path == "/v1/chat/completions" and "tools" in request:
        # The template sees the tools all the same, and one token is never read as a call.
        copy["tool_choice"] = "none"
    if path == "/v1/responses":
        copy["store"] = False
    return json.dumps({**copy, PATHS[path]: 1}).encode()


def _is_for_decode_alone(request: Mapping[str, Any]) -> bool:
    # vLLM looks for no cached block where it owes the prompt's log-probabilities; earlier turns are in one D's memory.
    return bool(
        request.get("echo") or request.get("prompt_logprobs") is not None or request.get("previous_response_id")
    )


def error(message: str, kind: str = "ServiceUnavailableError", code: int = 503) -> dict[str, Any]:
    """Return an error in vLLM's form."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


class RequestIds:
    """ASGI middleware of P and D: an engine's ids of requests are its own, and the log says whose they are.

    vLLM takes a header for its id of the request, and two clients may send the same one.

    Args:
        app: What it wraps.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with an id that nobody has sent."""
        if scope["type"] == "http":
            own = uuid.uuid4().hex
            given = _header(scope, ID)
            if given and scope["path"] in PATHS:
                _log.info("%s: X-Request-Id %r is request %s", scope["path"], given.decode("latin-1"), own)
            headers = [(name, value) for name, value in scope["headers"] if name != ID]
            scope = {**scope, "headers": [*headers, (ID, own.encode())], CLIENTS_ID: given or own.encode()}
        await self.app(scope, receive, send)


class Pairing:
    """ASGI middleware of D.

    Args:
        app: What it wraps.
        settings: How P is found; not given, the variable says it.
    """

    def __init__(self, app: Application, settings: Settings | None = None) -> None:
        self.app = app
        self.settings = settings or Settings.from_text(os.environ[VARIABLE])
        self._session: Any = None
        self._count = _counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the prompt computed, then let vLLM answer."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self.app(scope, receive, send)
            if scope["type"] == "lifespan" and self._session:
                await self._session.close()
            return
        parts, more = [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        left = asyncio.ensure_future(receive())  # the client's leaving is the next and last that comes
        try:
            if await self._prepared(scope, body, left, send):
                await self.app(scope, _replaying(body, left), send)
        finally:
            left.cancel()

    async def _prepared(self, scope: Scope, body: bytes, left: asyncio.Future[Message], send: Send) -> bool:
        """Have P do its part; return whether vLLM shall answer."""
        copy = prefill_copy(scope["path"], body)
        if copy is None:
            self._count("alone")
            return True
        asked = asyncio.ensure_future(self._ask(scope, copy))
        try:
            await asyncio.wait((asked, left), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                self._count("left")
                return False
        finally:
            asked.cancel()
            with suppress(asyncio.CancelledError):
                await asked
        status, headers, said = asked.result()
        if status < 400:
            self._count("paired")
            return True
        if status < 500:
            self._count("refused")  # vLLM refuses the original, too, and knows all of it
            return True
        _log.warning("no P computed request %s: %s", scope.get(CLIENTS_ID), status or said.decode())
        if self.settings.decode_alone:
            self._count("decode_alone")
            return True
        self._count("unavailable")
        if status == 500 and said:
            # P's engine lives, and cannot do it; D's could not either.
            await _answer(send, status, headers, said)
            return False
        headers = [(b"content-type", b"application/json"), (b"retry-after", str(self.settings.retry_after_s).encode())]
        if not status:
            headers.append((RETRY.encode(), b"1"))  # another D may reach the endpoint
        refusal = error("No prefill could answer; nothing was computed wrongly. Try again later.")
        await _answer(send, 503, headers, json.dumps(refusal).encode())
        return False

    async def _ask(self, scope: Scope, copy: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Return status, headers and body of P's answer; status 0 when there is none."""
        import aiohttp  # vLLM's own; what reads this module for its names alone has none

        if self._session is None:
            # vLLM's P may wait and compute as long as it likes; the endpoint notices when it is dead.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)
            )
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _PASSED}
        headers |= {"content-type": "application/json", "x-request-id": scope.get(CLIENTS_ID, b"").decode("latin-1")}
        try:
            async with self._session.post(self.settings.prefill + scope["path"], data=copy, headers=headers) as answer:
                kept = [(b"content-type", answer.headers.get("content-type", "text/plain").encode())]
                return answer.status, kept, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as reason:
            return 0, [], (str(reason) or type(reason).__name__).encode()


def _replaying(body: bytes, left: asyncio.Future[Message]) -> Receive:
    """Return what gives the application the request that was read, and then what comes after it."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await asyncio.shield(left)

    return receive


async def _answer(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for each, value in scope["headers"] if each == name), b"")


@cache
def _counter() -> Callable[[str], None]:
    """Return what counts one request under its outcome, in vLLM's ``/metrics``."""
    from prometheus_client import Counter

    family = Counter("yuanrong_pairing_requests", "Requests of this D by what P did for them.", ["outcome"])
    return lambda outcome: family.labels(outcome).inc()
