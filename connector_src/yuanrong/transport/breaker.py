# SPDX-License-Identifier: Apache-2.0
"""Circuit breaker: an unreachable DataSystem costs one deadline, and after that nothing until a probe finds it back."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from ..config import ConnectorConfig
from .affinity import unbound
from .base import OUTAGE, UNAVAILABLE, Guard, Presence, Transfer, Transport

logger = logging.getLogger("vllm.yuanrong")

_MAX_BACKOFF = 8

#: Run in a process of its own: a client that waits for a worker that does not answer holds the interpreter lock.
_PROBE = """
import json, sys
arguments = json.load(sys.stdin)
from yr.datasystem.kv_client import KVClient
client = KVClient(**arguments)
client.init()
client.exist(["yr-probe"])
"""


def probe(config: ConnectorConfig, reachable: Callable[[ConnectorConfig], bool]) -> bool:
    """Tell whether the DataSystem answers, without holding this process up.

    Args:
        config: Settings; credentials go to the probing process by its standard input.
        reachable: A cheap first look, so that a closed port costs no process.
    """
    if not reachable(config):
        return False
    arguments = {
        "host": config.worker_address.host,
        "port": config.worker_address.port,
        "connect_timeout_ms": config.connect_timeout_ms,
        "req_timeout_ms": config.lookup_timeout_ms,
        **config.credentials.as_kwargs(),
    }
    try:
        done = unbound(
            lambda: subprocess.run(
                [sys.executable, "-c", _PROBE],
                input=json.dumps(arguments).encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=30 + config.connect_timeout_ms / 1000,
                check=False,
            )
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("probe could not run: %s", type(error).__name__)
        return False
    return done.returncode == 0


class BreakingTransport:
    """A transport that answers at once while the DataSystem is out of reach.

    Args:
        connect: Makes a connected transport, or raises.
        alive: Tells, in a thread of its own, whether connecting would work.
        interval: Seconds between probes; doubles up to eight times that while the outage lasts, and goes on from there
            when calls fail again soon after it ended.
        failures: Outage answers in a row that open the breaker.
        on_change: Called with True when the breaker opens and with False when it closes.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Transport],
        alive: Callable[[], bool],
        interval: float,
        failures: int = 1,
        on_change: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._alive = alive
        self._interval = interval
        self._failures = failures
        self._on_change = on_change
        self._clock = clock
        self._pause = interval
        self._recovered = clock()
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._count = 0
        self._open = False
        self._closed = threading.Event()

    def start(self) -> None:
        """Connect; when that fails, start degraded and let the probe connect later."""
        try:
            if not self._alive():
                raise ConnectionError("the DataSystem worker does not answer")
            self._transport = self._connect()
            self._on_change(False)
        except Exception as error:
            self._trip(f"{type(error).__name__}: {error}")

    def exist(self, keys: Sequence[str]) -> Presence:
        """Ask the transport, or answer that nothing is there."""
        transport = self._ready()
        if transport is None:
            return Presence([False] * len(keys), UNAVAILABLE)
        answer = transport.exist(keys)
        self._judge(answer.cause)
        return answer

    def get(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Fill blocks, or fail at once."""
        transport = self._ready()
        if transport is None:
            return Transfer.failed(len(keys), UNAVAILABLE)
        answer = transport.get(keys, blocks, guard)
        self._judge(answer.cause)
        return answer

    def put(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        """Publish blocks, or fail at once."""
        transport = self._ready()
        if transport is None:
            return Transfer.failed(len(keys), UNAVAILABLE)
        answer = transport.put(keys, blocks, guard)
        self._judge(answer.cause)
        return answer

    def discard(self, keys: Sequence[str]) -> str | None:
        """Delete objects, or fail at once."""
        transport = self._ready()
        if transport is None:
            return UNAVAILABLE
        cause = transport.discard(keys)
        self._judge(cause)
        return cause

    def fence(self) -> Callable[[], None] | None:
        """Mark the work queued on the device, also while the breaker is open: it may close before the save begins.

        None before the first connection.
        """
        transport = self._transport
        return None if transport is None else transport.fence()

    def close(self) -> None:
        """Stop probing and drop the connection."""
        self._closed.set()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _ready(self) -> Transport | None:
        return None if self._open else self._transport

    def _judge(self, cause: str | None) -> None:
        if cause not in OUTAGE:
            self._count = 0
            return
        with self._lock:
            self._count += 1
            if self._count < self._failures:
                return
        self._trip(str(cause))

    def _trip(self, reason: str) -> None:
        with self._lock:
            if self._open or self._closed.is_set():
                return
            self._open = True
            self._count = 0
            # A probe reaches this host's worker alone. Calls that need another worker, which is dead, would open the
            # breaker again after each probe: without this, a deadline every interval for as long as the keys are known.
            if self._clock() - self._recovered > self._interval * _MAX_BACKOFF:
                self._pause = self._interval
        logger.warning("DataSystem unavailable (%s): serving without it until it answers again", reason)
        self._on_change(True)
        threading.Thread(target=self._recover, name="yuanrong-probe", daemon=True).start()

    def _recover(self) -> None:
        """Probe until the DataSystem answers, then reconnect."""
        while not self._closed.wait(self._pause):
            self._pause = min(self._pause * 2, self._interval * _MAX_BACKOFF)
            try:
                if not self._alive():
                    continue
                fresh = self._connect()
            except Exception as error:
                logger.debug("reconnecting failed: %s", error)
                continue
            old, self._transport = self._transport, fresh
            with self._lock:
                self._open = False
                self._recovered = self._clock()
            logger.warning("DataSystem is back")
            self._on_change(False)
            if old is not None:
                old.close()
            return
