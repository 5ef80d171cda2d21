"""What the connector asks of torch_npu, by CANN's own functions: torch itself takes a minute to import in QEMU."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

acl = ctypes.CDLL("libascendcl.so")
_streams: list[ctypes.c_void_p] = []


def must(code: int) -> None:
    """Refuse every answer of CANN but its 0."""
    if code:
        raise RuntimeError(f"CANN says {code}")


class Event:
    """``torch_npu.npu.Event``."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        must(acl.aclrtSetDevice(0))  # torch's threads have one before they choose; CANN's have not
        must(acl.aclrtCreateEvent(ctypes.byref(self._handle)))

    def record(self, stream: ctypes.c_void_p) -> None:
        """Let the event come when a stream has done what it was told so far."""
        must(acl.aclrtRecordEvent(self._handle, stream))

    def synchronize(self) -> None:
        """Wait for it."""
        must(acl.aclrtSynchronizeEvent(self._handle))


def current_stream() -> ctypes.c_void_p:
    """Return the only stream there is."""
    if not _streams:
        _streams.append(ctypes.c_void_p())
        must(acl.aclrtCreateStream(ctypes.byref(_streams[0])))
    return _streams[0]


npu = SimpleNamespace(
    Event=Event, current_stream=current_stream, set_device=lambda index: must(acl.aclrtSetDevice(index))
)
