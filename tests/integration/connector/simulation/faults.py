"""Mistakes that the connector once had, put back one at a time; the random interleavings have to find each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_ascend.distributed.yuanrong import recovery

from tests.integration.connector.simulation.clock import Simulation

Changes = list[tuple[Any, str, Any]]


@dataclass(frozen=True)
class Fault:
    """A mistake.

    Attributes:
        name: Its number in the issue, and a word.
        what: What it makes of the connector.
        changes: Returns what is put in which place, for a simulation.
    """

    name: str
    what: str
    changes: Callable[[Simulation], Changes]


def _returning_ids(_: Simulation) -> Changes:
    def free_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        return super(recovery.KVLoadRecoveryMixin, self)._free_request(request, *args, **kwargs)

    return [(recovery.KVLoadRecoveryMixin, "_free_request", free_request)]


FAULTS = [
    Fault("F1", "a request that was aborted while it loads keeps its id until the load has ended", _returning_ids),
]
