# SPDX-License-Identifier: Apache-2.0
"""What the scheduler side tells every worker in each step: plain data, pickled with the scheduler's output."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Prefix of the id that reports a failed load next to the request's own id in ``finished_recving``. vLLM has no field
#: for it (neither 0.10.0 nor 0.11.0); the scheduler mix-in takes it out again. Requests whose own id begins so are
#: never loaded.
FAILURE_MARK = "yrfail:"


@dataclass(frozen=True)
class LoadSpec:
    """Blocks to fill before a request can run.

    Attributes:
        request_id: The request that waits.
        digests: Block digests (32 bytes each), in block order.
        blocks: KV block ids, one per digest.
    """

    request_id: str
    digests: list[bytes]
    blocks: list[int]


@dataclass(frozen=True)
class SaveSpec:
    """Blocks that are complete after this step's forward pass.

    Attributes:
        request_id: The request that computed them.
        digests: Block digests (32 bytes each), in block order.
        blocks: KV block ids, one per digest.
        absent: The request's lookup found none of them in the DataSystem, so it need not be asked again.
    """

    request_id: str
    digests: list[bytes]
    blocks: list[int]
    absent: bool = False


@dataclass
class StepPlan:
    """One step's work.

    Attributes:
        namespace: ``Namespace.digest()``.
        loads: Loads that begin now.
        drains: Requests that were aborted while they loaded; each rank reports each of them exactly once in
            ``finished_sending``, after its last write.
        saves: Saves that begin after the forward pass.
        sync_saves: Requests whose saves must be finished before their answer goes out.
        new_blocks: Blocks that were handed out in this step: saves that still read them must end first.
    """

    namespace: bytes
    loads: list[LoadSpec] = field(default_factory=list)
    drains: list[str] = field(default_factory=list)
    saves: list[SaveSpec] = field(default_factory=list)
    sync_saves: list[str] = field(default_factory=list)
    new_blocks: list[int] = field(default_factory=list)
