"""A world of two hosts, whose clock runs as fast as it is asked."""

from __future__ import annotations

import socket
import time

import pytest

from tests.unit.deploying.rollout.fake_engines import World
from yrpd.deploying.hosts import direct, probing
from yrpd.deploying.planning import ports
from yrpd.deploying.rollout import drain


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Return an empty world; sessions, sockets and the clock are its own."""
    now = [0.0]

    world = World()

    def listens(address: str, port: int) -> bool:
        return world.listening(address, port) is not None

    def connect(target: tuple[str, int], **_: object) -> socket.socket:
        if not listens(*target):
            raise ConnectionRefusedError
        return socket.socket()

    monkeypatch.setattr(direct.DirectSession, "get", lambda session, url, **given: world.get(session, url, **given))
    monkeypatch.setattr(ports, "answers", listens)
    for module in (drain, probing):
        monkeypatch.setattr(module, "INTERVAL_S", 10.0)  # of this clock
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return world
