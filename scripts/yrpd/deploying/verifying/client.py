"""Asks an OpenAI-compatible server, whole or streamed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests
from urllib3.exceptions import NewConnectionError

from yrpd.deploying.hosts.direct import DirectSession
from yrpd.deploying.verifying.answers import Answer, MalformedAnswerError, parse
from yrpd.deploying.verifying.questions import Question

TIMEOUT_S = 600.0
OK = 200
STREAM_END = "[DONE]"


class AskError(Exception):
    """The server did not answer the question; the text says what it did.

    Args:
        text: What it did.
        status: Its HTTP status; 0 when there was none, or the answer began well.
        retry_after: The header of that name.
        late: Nothing came for as long as was waited.
        unreached: There was no connection, so nothing was asked.
    """

    def __init__(
        self, text: str, *, status: int = 0, retry_after: str = "", late: bool = False, unreached: bool = False
    ) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after
        self.late = late
        self.unreached = unreached


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server.

    Attributes:
        url: Where it is, without a path.
        key: What it asks its clients for; empty when it asks for nothing.
        ca: File with who signed its certificate; empty takes those that this machine trusts.
    """

    url: str
    key: str = field(default="", repr=False)
    ca: str = ""


@contextmanager
def _asking(base: Server | str) -> Iterator[tuple[requests.Session, str]]:
    """Give a session for a server, and its address; whatever is no answer becomes an :class:`AskError`."""
    server = base if isinstance(base, Server) else Server(base)
    try:
        with DirectSession() as session:
            if server.key:
                session.headers["Authorization"] = f"Bearer {server.key}"
            if server.ca:
                session.verify = server.ca
            yield session, server.url
    except (requests.RequestException, MalformedAnswerError, ValueError, KeyError) as error:
        raise _ask_error(error) from error


def ask(base: Server | str, model: str, question: Question, salt: str = "", timeout_s: float = TIMEOUT_S) -> Answer:
    """Ask once and return the whole answer.

    Raises:
        AskError: It is not an answer.
    """
    with _asking(base) as (session, url):
        answer = session.post(url + question.path, json=_body(question, model, salt), timeout=timeout_s)
        _demand_ok(answer)
        return parse([answer.json()])


def ask_streaming(
    base: Server | str, model: str, question: Question, salt: str = "", timeout_s: float = TIMEOUT_S
) -> tuple[Answer, float, int]:
    """Ask for a stream.

    Returns:
        The answer, the seconds to its first token, and the number of chunks that carried tokens.

    Raises:
        AskError: It is not an answer, or the stream ends without its end mark.
    """
    body = {**_body(question, model, salt), "stream": True, "stream_options": {"include_usage": True}}
    chunks: list[dict[str, Any]] = []
    first, with_tokens = 0.0, 0
    began = time.monotonic()
    with (
        _asking(base) as (session, url),
        session.post(url + question.path, json=body, timeout=timeout_s, stream=True) as got,
    ):
        _demand_ok(got)
        for line in got.iter_lines(chunk_size=1):
            if not line.startswith(b"data:"):
                continue
            content = line[5:].strip().decode("utf-8")
            if content == STREAM_END:
                return parse(chunks), first, with_tokens
            chunk = json.loads(content)
            chunks.append(chunk)
            if any(choice.get("logprobs") for choice in chunk.get("choices") or ()):
                first = first or time.monotonic() - began
                with_tokens += 1
    raise AskError("the stream broke off")


def ask_plainly(base: Server | str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post a body and return the JSON answer.

    Raises:
        AskError: It is not one.
    """
    with _asking(base) as (session, url):
        answer = session.post(url + path, json=body, timeout=TIMEOUT_S)
        _demand_ok(answer)
        document: dict[str, Any] = answer.json()
    return document


def get_text(base: Server | str, path: str = "") -> str:
    """Return what a GET answers.

    Raises:
        AskError: It is not an answer.
    """
    with _asking(base) as (session, url):
        answer = session.get(url + path, timeout=TIMEOUT_S)
        _demand_ok(answer)
    return answer.text


def _demand_ok(answer: requests.Response) -> None:
    if answer.status_code != OK:
        message = f"{answer.url} answers {answer.status_code}: {answer.text[:300]}"
        raise AskError(message, status=answer.status_code, retry_after=answer.headers.get("Retry-After", ""))


def _ask_error(error: Exception) -> AskError:
    # A body that stops coming is a ConnectionError around a ReadTimeoutError.
    late = isinstance(error, requests.Timeout) or "Read timed out" in str(error)
    unreached = isinstance(getattr(next(iter(error.args), None), "reason", None), NewConnectionError)
    return AskError(str(error), late=late, unreached=unreached)


def _body(question: Question, model: str, salt: str) -> dict[str, Any]:
    body = {"model": model, **question.body}
    return {**body, "cache_salt": salt} if salt else body
