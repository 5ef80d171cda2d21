"""A steady stream of requests whose right answers are known, and what became of each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from threading import Condition, Event, Thread
from typing import Literal, get_args

from workshop.faults.known import Known
from yrpd.deploying.verifying.answers import compare
from yrpd.deploying.verifying.client import AskError, ask, ask_streaming
from yrpd.deploying.verifying.questions import Question
from yrpd.deploying.verifying.tolerance import ties_allowed

# Short enough to come often, long enough to fill blocks.
ASKED = (
    "a block and a token",
    "exactly two blocks",
    "several blocks",
    "same beginning",
    "chat",
    "picture A",
    "picture B",
)
CLIENTS = 3
PAUSE_S = 0.1  # between two requests of one client
AGAIN_S = 1.0  # after one that failed; a client that comes again at once would only measure how fast it can be refused
HUNG_AFTER_S = 300.0
UNAVAILABLE = 503

Verdict = Literal["right", "refused", "unreached", "cut", "wrong", "unclean", "hung"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Sent:
    """A request.

    Attributes:
        name: Its question.
        began: When it was sent, of the monotonic clock.
        seconds: Until it ended.
        verdict: ``right``: equal to plain vLLM's answer; ``refused``: 503 with Retry-After; ``unreached``: nobody took
            the connection; ``cut``: it ended in the middle; ``wrong``: another answer; ``unclean``: any other error;
            ``hung``: no end.
        problem: What was seen of one that is not right.
    """

    name: str
    began: float
    seconds: float
    verdict: Verdict
    problem: str = ""


def verdict_of(error: AskError) -> Verdict:
    """Return what an error counts as."""
    if error.late:
        return "hung"
    if error.status:
        return "refused" if error.status == UNAVAILABLE and error.retry_after else "unclean"
    return "unreached" if error.unreached else "cut"


class Stream:
    """Clients that ask one question after the other, each under a fresh salt, every third as a stream.

    Args:
        known: What can be asked, and the right answers.
        clients: How many ask at the same time.
        clock: Seconds.
    """

    def __init__(self, known: Known, clients: int = CLIENTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._known = known
        self._questions = [known.questions[name] for name in ASKED if name in known.questions]
        self._clock = clock
        self._numbers = count()
        self._ended = Event()
        self._changed = Condition()
        self._sent: list[Sent] = []
        self._threads = [Thread(target=self._run, name=f"client-{number}", daemon=True) for number in range(clients)]

    def __enter__(self) -> Stream:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Send nothing more, and wait for what is under way."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def sent(self) -> tuple[Sent, ...]:
        """Return what has ended so far."""
        with self._changed:
            return tuple(self._sent)

    def now(self) -> float:
        """Return the time that :attr:`Sent.began` is of."""
        return self._clock()

    def wait_for(self, right: int, since: float, seconds: float) -> bool:
        """Wait until so many requests sent since then are right; return whether that came within the seconds."""

        def enough() -> bool:
            return sum(each.verdict == "right" and each.began >= since for each in self._sent) >= right

        with self._changed:
            return self._changed.wait_for(enough, timeout=seconds)

    def _run(self) -> None:
        while not self._ended.is_set():
            number = next(self._numbers)
            sent = self._ask(self._questions[number % len(self._questions)], streamed=number % 3 == 0)
            with self._changed:
                self._sent.append(sent)
                self._changed.notify_all()
            self._ended.wait(PAUSE_S if sent.verdict == "right" else AGAIN_S)

    def _ask(self, question: Question, *, streamed: bool) -> Sent:
        known, salt, began = self._known, uuid.uuid4().hex, self._clock()
        try:
            if streamed:
                answer, _, _ = ask_streaming(known.endpoint, known.model, question, salt, HUNG_AFTER_S)
            else:
                answer = ask(known.endpoint, known.model, question, salt, HUNG_AFTER_S)
        except AskError as error:
            return Sent(question.name, began, self._clock() - began, verdict_of(error), str(error)[:300])
        reference = known.references[question.name]
        tolerance = known.yardstick.tolerance(reference)
        found = compare(answer, reference, tolerance, ties=ties_allowed(known.yardstick.dtype))
        return Sent(question.name, began, self._clock() - began, "right" if found.equal else "wrong", found.problem)


def tally(sent: Sequence[Sent]) -> dict[Verdict, int]:
    """Return how many requests ended in which way."""
    counted: dict[Verdict, int] = dict.fromkeys(VERDICTS, 0)
    for each in sent:
        counted[each.verdict] += 1
    return counted
