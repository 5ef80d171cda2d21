# SPDX-License-Identifier: Apache-2.0
"""What the scheduler side tells every worker in each step: plain data, pickled with the scheduler's output."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Prefixes of the id that reports a failed load in ``finished_recving``, next to the load's own id. Every failed load
#: has exactly one of them, the same on all ranks; vLLM has no field for it (neither 0.10.0 nor 0.11.0), and the
#: scheduler mix-in takes it out again. The second one says that a call to the DataSystem ran into its timeout on some
#: rank: the load's blocks are kept off for a while. Time spent in a queue is no such call.
FAILURE_MARK = "yrfail:"
LATE_MARK = "yrlate:"

#: Prefix of the id that reports, in ``finished_recving``, a load that has failed while a call that cannot be called off
#: may still write: the load's own id is not beside it (the second mark above is, if a call was late), but follows in
#: ``finished_sending``. Until then its blocks must be kept; its request is computed into other ones.
GIVEN_UP_MARK = "yrgone:"


@dataclass(frozen=True)
class LoadSpec:
    """Blocks to fill before a request can run.

    Attributes:
        request_id: The request that waits.
        digests: Block digests (32 bytes each), in block order.
        blocks: KV block ids, one per digest.
        load_id: Names this load in every report and drain, and no other load of this engine ever. A request's id does
            not: it is the client's choice (``X-Request-Id``), and comes back with another request while this load may
            still be writing. Empty only where ids do not come back; see ``name``.
    """

    request_id: str
    digests: list[bytes]
    blocks: list[int]
    load_id: str = ""

    @property
    def name(self) -> str:
        """What the load is reported by: its own id, or the request's if it has none."""
        return self.load_id or self.request_id


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
        drains: Loads (by ``LoadSpec.name``) whose requests were aborted meanwhile; each rank reports each of them
            exactly once in ``finished_sending``, after its last write.
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
