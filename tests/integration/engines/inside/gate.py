# ruff: noqa: D102 - methods are what they override
"""What the end-to-end tests put into a real engine: the real connector and schedulers, which announce what they do.

Before a load or a save begins and after a request ended, the connector tells the test over a socket, and goes on when
the test lets it. So a test acts, through real clients and on real processes, at exactly the moment that it is about.
"""

from __future__ import annotations

import copy
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import cpu_attention  # type: ignore[import-not-found]  # its folder is on the engine's path
from vllm_ascend.distributed.yuanrong.connector import YuanRongConnector
from vllm_ascend.distributed.yuanrong.recovery import RecoveringAscendScheduler, RecoveringScheduler
from vllm_ascend.distributed.yuanrong.transport import Guard, Presence, Transfer, Transport

__all__ = ["GATE", "GatedConnector", "RecoveringScheduler", "WholePromptAscendScheduler"]

GATE = "YRPD_TEST_GATE"  # names the test's socket
OWNERS: dict[str, str] = {}  # key -> the request that loaded or saved it last
cpu_attention.mend()


def announce(moment: str, **what: Any) -> None:
    """Tell the test, and wait for its leave; with nobody listening, go on."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.environ[GATE])
            connection.sendall(json.dumps({"moment": moment, **what}).encode() + b"\n")
            connection.recv(1)
        except OSError:
            return


class GatedTransport:
    """The real transport, behind the gate."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def exist(self, keys: Sequence[str]) -> Presence:
        return self._inner.exist(keys)

    def get(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        announce("load", keys=list(keys), request=OWNERS.get(keys[0]))
        return self._inner.get(keys, blocks, guard)

    def put(self, keys: Sequence[str], blocks: Sequence[int], guard: Guard) -> Transfer:
        announce("save", keys=list(keys), request=OWNERS.get(keys[0]))
        return self._inner.put(keys, blocks, guard)

    def discard(self, keys: Sequence[str]) -> str | None:
        cause: str | None = self._inner.discard(keys)
        return cause

    def fence(self) -> Callable[[], None] | None:
        wait: Callable[[], None] | None = self._inner.fence()
        return wait

    def close(self) -> None:
        self._inner.close()


class GatedConnector(YuanRongConnector):  # type: ignore[misc]
    """The real connector, behind the gate."""

    def _connected(self, kind: str, layout: Any, timeout_ms: int) -> Transport:
        connected: Transport = super()._connected(kind, layout, timeout_ms)
        return connected if layout is None else GatedTransport(connected)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self._note(self._plan().loads)
        super().start_load_kv(forward_context, **kwargs)

    def wait_for_save(self) -> None:
        self._note(self._plan().saves)
        super().wait_for_save()

    def _note(self, specs: Sequence[Any]) -> None:
        for spec in specs:
            keys = self._worker._keys(self._plan().namespace, spec)
            OWNERS.update(dict.fromkeys(keys, spec.request_id))

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        answer: tuple[bool, dict[str, Any] | None] = super().request_finished(request, block_ids)
        announce("finished", request=request.request_id, draining=self.draining(request))
        return answer

    def drained(self, load_id: str) -> None:
        request = self.request_of(load_id)
        super().drained(load_id)
        announce("drained", request=load_id if request is None else request.request_id)


class WholePromptAscendScheduler(RecoveringAscendScheduler):  # type: ignore[misc]
    """The Ascend scheduler that schedules prompts whole, which is its own path.

    The CPU's attention ignores a cached prefix unless chunked prefill is on, and then the Ascend scheduler steps aside
    for vLLM's. So chunked prefill is off for the scheduler alone.
    """

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        own = copy.copy(vllm_config)
        own.scheduler_config = copy.copy(vllm_config.scheduler_config)
        own.scheduler_config.chunked_prefill_enabled = False
        super().__init__(own, *args, **kwargs)
