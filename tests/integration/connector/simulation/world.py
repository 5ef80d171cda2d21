# ruff: noqa: D102 - stand-ins are named and shaped like what they stand in for
"""The DataSystem: objects in a dictionary, with clients that take time, fail, fill up and hang.

The clients are those that the real transports use, ``KVClient`` and ``HeteroClient``, so that the transports run as
they are. What is published is compared with what the engines have said that its key stands for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.integration.connector.simulation.clock import Simulation

_TICK = 1e-6  # what sums of seconds may differ by


@dataclass
class Weather:
    """How the DataSystem does at the moment.

    Attributes:
        up: Whether it answers at all.
        full: Whether it has no room.
        usual: Seconds of a usual transfer, one of them.
        slow: Chance of a call to take long.
        trouble: Chance of a call to fail, or of an object to be broken.
        holds: Whether calls keep the interpreter lock.
        hangs: Chance of a transfer of an NPU to go on past its timeout.
    """

    up: bool = True
    full: bool = False
    usual: tuple[float, ...] = (0.0005, 0.002)
    slow: float = 0.0
    trouble: float = 0.0
    holds: bool = False
    hangs: float = 0.0


class World:
    """What all engines share.

    Args:
        simulation: Its time and its dice.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.rng = simulation.rng
        self.weather = Weather()
        self.objects: dict[str, bytes] = {}
        self.expected: dict[str, bytes] = {}
        self.tainted: set[str] = set()  # published by calls whose blocks had been given away

    def expect(self, key: str, content: bytes) -> None:
        """Say what a key stands for."""
        if self.expected.setdefault(key, content) != content:
            self.simulation.fail("one key stands for two contents")

    def readable(self, key: str) -> bool:
        """Whether anybody finds a key; a tainted one, that is to be deleted at once, counts as evicted."""
        return key in self.objects and key not in self.tainted

    def publish(self, key: str, data: bytes, tainted: bool) -> None:
        self.objects[key] = data
        self.tainted.discard(key)
        if tainted:
            self.tainted.add(key)
        elif data[-len(self.expected.get(key, b"")) :] != self.expected.get(key):
            self.simulation.fail("an object was published with content that its key does not stand for")

    def evict(self, key: str) -> None:
        self.objects.pop(key, None)
        self.tainted.discard(key)

    def seconds(self, usual: tuple[float, ...] = ()) -> float:
        """Return how long a call takes; ``usual``: other than transfers do."""
        if self.rng.random() < self.weather.slow:
            return self.rng.choice([0.05, 0.3, 1.5, 4.0])
        return self.rng.choice(usual or self.weather.usual)


@dataclass
class Client:
    """What both clients have in common.

    Attributes:
        world: The DataSystem.
        timeout: Seconds of a call.
        count: Called with the kind of each call.
        pause: Seconds for which a client that found no room asks no more.
    """

    world: World
    timeout: float
    count: Callable[[str], None] = lambda _: None
    pause: float = 0.0
    no_room_until: float = field(default=0.0, init=False)

    def exist(self, keys: Sequence[str]) -> list[bool]:
        # The scheduler's own thread waits for it; nothing else runs, so that an answer is of one moment.
        self._spend("exist", self.world.seconds((0.0005, 0.002, 0.01)), self.world.simulation.hold)
        return [self.world.readable(key) for key in keys]

    def delete(self, keys: Sequence[str]) -> list[str]:
        self._begin("delete")
        for key in keys:
            self.world.evict(key)
        return []

    def _begin(self, kind: str) -> None:
        thread = self.world.simulation.current
        if not thread.unbound and thread.name.startswith("yuanrong-"):
            self.world.simulation.fail(f"{thread.name} moves blocks on the cores that the engine is bound to")
        self.count(kind)

    def _spend(self, kind: str, seconds: float, how: Callable[[float], None]) -> None:
        """Take time, and fail as the DataSystem does at the moment."""
        self._begin(kind)
        weather, rng = self.world.weather, self.world.rng
        if not weather.up and rng.random() < 0.5:
            raise RuntimeError("code: [RPC unavailable] cannot connect to the worker")
        if not weather.up or seconds >= self.timeout:
            self._late()
            how(self.timeout)
            raise RuntimeError("code: [RPC deadline exceeded] timeout")
        how(seconds)
        if rng.random() < weather.trouble / (10 if kind == "exist" else 1):
            raise RuntimeError("code: [Runtime error]")

    def _late(self) -> None:
        job = self.world.simulation.current.job
        if job is not None:
            job.was_late = True

    def _ask_for_room(self, how: Callable[[float], None]) -> None:
        """Fail if there is none, at once or after having tried again for the whole of the timeout."""
        simulation = self.world.simulation
        if simulation.now < self.no_room_until - _TICK:
            simulation.fail("asked for room again before the pause was over")
        if not self.world.weather.full:
            return
        if self.world.rng.random() < 0.7:
            how(self.timeout)
            self.no_room_until = simulation.now + self.pause
        raise RuntimeError("code: [Out of memory]")


@dataclass
class _Buffer:
    key: str
    data: bytearray

    def MutableData(self) -> bytearray:
        return self.data


class HostClient(Client):
    """Stands in for ``KVClient``."""

    def mcreate(self, keys: Sequence[str], sizes: Sequence[int], mode: Any, ttl: int) -> list[_Buffer]:
        self._spend("mcreate", self.world.seconds(), self._way())
        self._ask_for_room(self.world.simulation.hold)
        return [_Buffer(key, bytearray(size)) for key, size in zip(keys, sizes, strict=True)]

    def mset_buffer(self, buffers: Sequence[_Buffer]) -> None:
        self._spend("mset", 0.0005, self._way())
        for buffer in buffers:
            self.world.publish(buffer.key, bytes(buffer.data), False)

    def get_buffers(self, keys: Sequence[str], timeout: int) -> list[bytes | None]:
        self._spend("get", self.world.seconds(), self._way())
        return [self._read(key) for key in keys]

    def _read(self, key: str) -> bytes | None:
        if not self.world.readable(key):
            return None
        data = self.world.objects[key]
        if self.world.rng.random() < self.world.weather.trouble / 4:
            data = data[:-1] if self.world.rng.random() < 0.5 else data[:-1] + bytes([data[-1] ^ 1])
        return data

    def _way(self) -> Callable[[float], None]:
        return self.world.simulation.hold if self.world.weather.holds else self.world.simulation.sleep


@dataclass(frozen=True)
class Blob:
    """A run of device memory."""

    address: int
    size: int

    def read(self) -> bytes:
        return ctypes.string_at(self.address, self.size)

    def write(self, data: bytes) -> None:
        ctypes.memmove(self.address, data, self.size)


@dataclass(frozen=True)
class BlobList:
    """A block's runs."""

    device: int
    runs: list[Blob]

    def read(self) -> bytes:
        return b"".join(run.read() for run in self.runs)

    def write(self, data: bytes) -> None:
        for run in self.runs:
            run.write(data[: run.size])
            data = data[run.size :]


class NpuClient(Client):
    """Stands in for ``HeteroClient``: what was submitted cannot be taken back."""

    def async_mset_d2h(self, keys: Sequence[str], blobs: Sequence[BlobList], param: Any) -> Future:
        half = [blob.read() for blob in blobs[: len(blobs) // 2]]

        def end() -> list[str]:
            job = self.world.simulation.current.job
            late = [blob.read() for blob in blobs[len(half) :]]
            for key, data in zip(keys, half + late, strict=True):
                self.world.publish(key, data, bool(job and job.guard.abandoned))
            return []

        return self._submit("put", end)

    def async_mget_h2d(self, keys: Sequence[str], blobs: Sequence[BlobList], timeout: int) -> Future:
        def end() -> list[str]:
            missing = [key for key in keys if not self.world.readable(key)]
            for key, blob in zip(keys, blobs, strict=True):
                if key not in missing:
                    blob.write(self.world.objects[key])
            return missing

        return self._submit("get", end)

    def _submit(self, kind: str, end: Callable[[], list[str]]) -> Future:
        world = self.world
        weather, rng = world.weather, world.rng
        seconds = world.seconds()
        hangs = rng.random() < weather.hangs
        if hangs:
            seconds = self.timeout * rng.choice([1.5, 3, 20])
        self._begin(kind)
        error = ""
        if not hangs and (not weather.up or seconds >= self.timeout):
            seconds, error = self.timeout, "code: [RPC deadline exceeded] timeout"
        elif rng.random() < weather.trouble:
            error = "code: [Runtime error]"
        elif kind == "put" and weather.full:
            seconds, error = self.timeout, "code: [Out of memory]"
        if seconds >= self.timeout:
            self._late()
        if kind == "put":
            if world.simulation.now < self.no_room_until - _TICK:
                world.simulation.fail("asked for room again before the pause was over")
            if "memory" in error:
                self.no_room_until = world.simulation.now + seconds + self.pause
        return Future(world.simulation, world.simulation.now + seconds, end, error)


@dataclass
class Future:
    """What a submitted call is asked by."""

    simulation: Simulation
    ends: float
    end: Callable[[], list[str]]
    error: str

    def get(self, milliseconds: int) -> list[str]:
        # A poll of the transport is a millisecond; between two, only other threads' matters change.
        if self.simulation.now < self.ends:
            self.simulation.sleep(min(self.ends - self.simulation.now, 0.2))
        if self.simulation.now < self.ends:
            raise RuntimeError("future get timeout")
        if self.error:
            raise RuntimeError(self.error)
        return self.end()
