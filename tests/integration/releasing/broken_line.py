"""A line to a real service that breaks off, or goes silent, after so many bytes in one direction."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 1 << 16
Address = str | tuple[str, int]


def _open(address: Address) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM)


@dataclass
class BrokenLine:
    """A listener that passes bytes on, until a connection has had its share.

    Attributes:
        service: Where the real service listens.
        address: Where this listens: a socket's path, or loopback and a port (0: any).
        up: Bytes that one connection may send.
        down: Bytes that one connection may receive.
        silent: Say nothing more instead of hanging up.
    """

    service: Address
    address: Address
    up: int = 1 << 40
    down: int = 1 << 40
    silent: bool = False
    broken: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> BrokenLine:
        """Listen."""
        self._listener = _open(self.address)
        self._listener.bind(self.address)
        self._listener.listen()
        if not isinstance(self.address, str):
            self.address = self._listener.getsockname()
        self._sockets: list[socket.socket] = []
        self._done = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up on everyone."""
        self._done.set()
        for one in (self._listener, *self._sockets):
            _hang_up(one)
        if isinstance(self.address, str):
            Path(self.address).unlink()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = _open(self.service)
            far.connect(self.service)
            self._sockets += [near, far]
            for pair in ((near, far, self.up), (far, near, self.down)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, share: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                share -= len(data)
                if share < 0:
                    self.broken.set()
                    if self.silent:
                        self._done.wait()
                    break
                target.sendall(data)
        _hang_up(source)
        _hang_up(target)


def _hang_up(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
