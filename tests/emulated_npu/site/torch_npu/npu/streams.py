"""Streams and events. There is one queue; a stream names it, an event marks a place in it."""

from __future__ import annotations

import time
from typing import Any

import torch

from .._library import library


class Stream:
    """The device's queue."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.device, self.priority = device, priority

    def synchronize(self) -> None:
        """Wait for what was queued so far: from now on the calling thread sees its results."""
        library.emulated_npu_wait(library.emulated_npu_issued())

    def wait_event(self, event: Event) -> None:
        """Order later work after an event; the queue is in order anyway."""

    def wait_stream(self, stream: Stream) -> None:
        """Order later work after another stream's; the queue is in order anyway."""

    def record_event(self, event: Event | None = None) -> Event:
        """Record an event here."""
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        """Tell that the queue is empty, which is all that the host may know here."""
        return True


class Event:
    """A place in the queue. Before it was recorded it is at the queue's start, as in CANN."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self._number, self._timing, self._time = 0, enable_timing, 0.0

    def record(self, stream: Stream | None = None) -> None:
        """Mark what was queued so far."""
        self._number, self._time = library.emulated_npu_issued(), time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        """Order a stream's later work after this; the queue is in order anyway."""

    def synchronize(self) -> None:
        """Wait for what was queued before this: from now on the calling thread sees its results."""
        library.emulated_npu_wait(self._number)

    def query(self) -> bool:
        """Tell whether what was queued before this is done."""
        return True

    def elapsed_time(self, end: Event) -> float:
        """Return milliseconds between two recorded events."""
        return (end._time - self._time) * 1000


_stream = Stream(device=torch.device("cpu"))


def current_stream(device: Any = None) -> Stream:
    """Return the stream that the calling thread queues on."""
    return _stream


class stream:
    """Context in which work is queued on a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __enter__(self) -> Stream:
        return self.stream

    def __exit__(self, *_: object) -> None:
        return None
