# ruff: noqa: D102, D105 - stand-ins are named and shaped like what they stand in for
"""A clock that does not run by itself, and threads of which one runs at a time, chosen by a seed.

The connector's threads are real ones, but each hands over to the next wherever it waits: for a condition, an event, a
queue, or for time to pass. Nothing runs between two such places, and time passes only when everybody waits. So a seed
names one interleaving, and what was waited for can be counted.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

#: Real seconds after which a hand-over counts as lost: the simulation itself is broken.
_LOST = 60
#: Simulated seconds after which the main thread counts as stuck: nothing that it waits for takes a tenth of that.
_FOR_EVER = 1000


class Stopped(BaseException):
    """Ends a thread of a simulation that is over."""


class Stuck(AssertionError):
    """Everybody waits, and nothing will ever happen."""


class SimulatedThread:
    """One thread, with what it waits for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.baton = threading.Semaphore(0)
        self.ready: Callable[[], bool] = lambda: True
        self.deadline: float | None = None
        self.since = 0.0  # when it began to wait
        self.ended = False
        self.unbound = False  # whether it may run on all cores
        self.job: Any = None  # what it moves
        self.real: threading.Thread | None = None


class Simulation:
    """Owns the clock, and decides who runs.

    Args:
        rng: Decides among those that could run.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 1000.0
        self.held = 0.0  # seconds in which one thread kept all others from running
        self.main = self.current = SimulatedThread("main")
        self.error: BaseException | None = None
        self._threads = [self.main]
        self._stopped = False

    # -- for the code that runs in it ----------------------------------------------------------------------------------

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def hold(self, seconds: float) -> None:
        """Let time pass without letting anybody else run, as a call does that keeps the interpreter lock."""
        self.now += seconds
        self.held += seconds

    def wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Let others run until something is so, or some seconds have passed; tells whether it is so."""
        me = self.current
        if self._stopped:
            raise Stopped
        me.ready, me.since = ready, self.now
        me.deadline = None if timeout is None else self.now + timeout
        chosen = self._choose()
        if chosen is not me:
            self._hand_over(me, chosen)
        if me is self.main:
            self.check()
        return ready()

    def spawn(self, name: str, work: Callable[[], None]) -> SimulatedThread:
        """Begin a thread; it runs when somebody waits."""
        thread = SimulatedThread(name)

        def run() -> None:
            thread.baton.acquire()
            try:
                if not self._stopped:
                    work()
            except Stopped:
                pass
            except BaseException as error:  # shown by the main thread
                self.error = self.error or error
            thread.ended = True
            self._threads.remove(thread)
            if not self._stopped:
                self._leave()

        thread.real = threading.Thread(target=run, name=name, daemon=True)
        thread.real.start()
        self._threads.append(thread)
        return thread

    # -- for the test --------------------------------------------------------------------------------------------------

    def fail(self, message: str) -> None:
        """Take note of a mistake in a thread whose exceptions are caught by what is tested."""
        self.error = self.error or AssertionError(message)

    def check(self) -> None:
        """Raise what went wrong in any thread."""
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """End all threads, one after the other."""
        self._stopped = True
        for thread in self._threads[1:]:
            self.current = thread
            thread.baton.release()
            assert thread.real is not None
            thread.real.join(_LOST)
        self.current = self.main

    # -- inner workings ------------------------------------------------------------------------------------------------

    def _choose(self) -> SimulatedThread:
        while True:
            now = self.now
            able = [t for t in self._threads if (t.deadline is not None and t.deadline <= now) or t.ready()]
            if self.error is not None and self.main in self._threads:
                return self.main
            if able:
                return able[0] if len(able) == 1 else self.rng.choice(able)
            deadlines = [t.deadline for t in self._threads if t.deadline is not None]
            if not deadlines or now - self.main.since > _FOR_EVER:
                waiting = ", ".join(t.name for t in self._threads)
                self.error = Stuck(f"the engine waits for ever, with {waiting}")
                return self.main
            self.now = min(deadlines)

    def _hand_over(self, me: SimulatedThread, chosen: SimulatedThread) -> None:
        self.current = chosen
        chosen.baton.release()
        if not me.baton.acquire(timeout=_LOST):
            raise RuntimeError("the simulation lost a thread")
        if self._stopped:
            raise Stopped

    def _leave(self) -> None:
        chosen = self._choose()
        self.current = chosen
        chosen.baton.release()


class Condition:
    """``threading.Condition`` of a simulation, with its lock."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._owner: SimulatedThread | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = self._simulation.current
        if self._owner is not me:
            if self._owner is not None:
                self._simulation.wait(lambda: self._owner is None)
            self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def notify_all(self) -> None:
        """Do nothing: what is waited for is looked at whenever somebody waits."""

    notify = notify_all

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> bool:
        if predicate():
            return True
        depth, self._depth, self._owner = self._depth, 0, None
        try:
            return self._simulation.wait(lambda: bool(predicate()) and self._owner is None, timeout)
        finally:
            self.acquire()
            self._depth = depth


class Event:
    """``threading.Event`` of a simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def wait(self, timeout: float | None = None) -> bool:
        return self._set or self._simulation.wait(self.is_set, timeout)


class SimpleQueue:
    """``queue.SimpleQueue`` of a simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self) -> Any:
        self._simulation.wait(lambda: bool(self._items))
        return self._items.popleft()

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items


class Thread:
    """``threading.Thread`` of a simulation."""

    _numbers = itertools.count()

    def __init__(
        self, simulation: Simulation, target: Callable[[], None], name: str = "", daemon: bool = False
    ) -> None:
        self._simulation = simulation
        self._target = target
        self.name = name or f"thread-{next(self._numbers)}"
        self._thread: SimulatedThread | None = None

    def start(self) -> None:
        self._thread = self._simulation.spawn(self.name, self._target)

    def join(self, timeout: float | None = None) -> None:
        thread = self._thread
        assert thread is not None
        self._simulation.wait(lambda: thread.ended, timeout)


def stand_ins(simulation: Simulation) -> dict[str, Any]:
    """Return what takes the places of the modules ``threading``, ``time`` and ``queue``."""
    lock = lambda: Condition(simulation)  # noqa: E731
    return {
        "threading": SimpleNamespace(
            Condition=lock,
            Lock=lock,
            Event=lambda: Event(simulation),
            Thread=lambda target, name="", daemon=False: Thread(simulation, target, name, daemon),
        ),
        "time": SimpleNamespace(
            monotonic=simulation.monotonic, perf_counter=simulation.monotonic, sleep=simulation.sleep
        ),
        "queue": SimpleNamespace(SimpleQueue=lambda: SimpleQueue(simulation)),
    }


@contextmanager
def replaced(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Give attributes other values, and their own again afterwards."""
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)
