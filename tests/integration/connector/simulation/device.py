# ruff: noqa: D101, D102 - stand-ins are named and shaped like what they stand in for
"""A device whose kernels end some time after they were launched, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tests.integration.connector.simulation.clock import Simulation


class Device:
    """Stands in for ``torch.npu`` too.

    Args:
        simulation: Its time.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._launched = self._done = 0
        simulation.spawn("kernels", self._run)

    def launch(self, seconds: float, kernel: Callable[[], None]) -> None:
        """Queue a kernel whose effect shows when it ends."""
        self._queue.append((seconds, kernel))
        self._launched += 1

    def finish(self, launched: int | None = None) -> None:
        """Wait for the first kernels, by default all that were launched."""
        number = self._launched if launched is None else launched
        if self._done < number:
            self._simulation.wait(lambda: self._done >= number)

    def current_stream(self) -> Device:
        return self

    def set_device(self, _: int) -> None:
        """Do nothing: there is one."""

    def Event(self) -> Event:
        return Event()

    def _run(self) -> None:
        while True:
            self._simulation.wait(lambda: bool(self._queue))
            seconds, kernel = self._queue.popleft()
            self._simulation.sleep(seconds)
            kernel()
            self._done += 1


class Event:
    def record(self, stream: Device) -> None:
        self._stream, self._launched = stream, stream._launched

    def synchronize(self) -> None:
        self._stream.finish(self._launched)
