# SPDX-License-Identifier: Apache-2.0
"""Which blocks the DataSystem has, asked within a budget per step: the scheduler, and with it every answer, waits.

One call takes 1 to 2 ms and some microseconds a key, and holds the interpreter lock. So requests that have never been
looked up are looked up together, and repeated lookups take their neighbours along; docs/connector.md, "Budgets of a
step", has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .config import ConnectorConfig
from .keys import block_key
from .transport.base import Transport

#: Most keys of one call; the DataSystem takes 10000, and the transports ask for up to this in one.
KEYS_PER_CALL = 8000
#: Lookups of a step beyond those of requests that have never been looked up.
REPEATS_PER_STEP = 4
#: Up to so many keys, a repeated lookup takes along other requests whose answer is old.
REPEAT_KEYS = 2000
#: A request whose answer stays the same is asked about at growing intervals, up to so many times the first.
MAX_INTERVALS = 8


@dataclass(frozen=True)
class Answer:
    """What is known of one request's blocks.

    Attributes:
        present: Blocks, from the first one on, that every rank can read.
        absent_from: From this block on no rank has any; None: nobody knows.
    """

    present: int = 0
    absent_from: int | None = None


class Lookups:
    """Asks a transport, keeps to a step's budget, and keeps off blocks whose load was late.

    Args:
        config: Settings.
        namespace: ``Namespace.digest()``.
        shards: Shard names of all ranks; a block is present only if all of them are.
        transport: Answers ``exist``.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        config: ConnectorConfig,
        namespace: bytes,
        shards: tuple[str, ...],
        transport: Transport,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._namespace = namespace
        self._shards = shards
        self._transport = transport
        self._clock = clock
        self._repeats = REPEATS_PER_STEP
        self._seconds = 0.0
        self._avoided: dict[bytes, float] = {}  # digest -> until when it is not loaded

    def renamed(self, namespace: bytes) -> None:
        """Ask for blocks of another namespace from here on."""
        self._namespace = namespace

    def new_step(self) -> None:
        """Begin a new budget."""
        self._repeats = REPEATS_PER_STEP
        self._seconds = 0.0

    def may_repeat(self) -> bool:
        """Take one repeated lookup out of the step's budget; False if there is none left."""
        if self._repeats <= 0 or self._seconds * 1000 >= self._config.lookup_timeout_ms:
            return False
        self._repeats -= 1
        return True

    def size(self, blocks: int) -> int:
        """Return how many keys a lookup of so many blocks has."""
        return blocks * len(self._shards)

    def ask_all(self, chains: Sequence[list[bytes]]) -> list[Answer]:
        """Look up several requests' blocks together.

        Keys beyond one call's are asked only as long as all before them were found and ``lookup_timeout_ms`` leaves
        room for another call like the slowest so far; what was not asked is neither present nor known to be absent.
        """
        ends = [self._first_avoided(digests) for digests in chains]
        keys = [
            block_key(self._namespace, shard, digest)
            for digests, end in zip(chains, ends, strict=True)
            for digest in digests[:end]
            for shard in self._shards
        ]
        found = self._found(keys)
        answers = []
        start = 0
        for digests, end in zip(chains, ends, strict=True):
            flags = found[start : start + self.size(end)]
            answers.append(self._answer(flags, whole=len(flags) == self.size(len(digests))))
            start += self.size(end)
        return answers

    def avoid(self, digests: Sequence[bytes]) -> None:
        """After a load in which a call ran into its timeout, keep off its blocks for ``retry_failed_ms``.

        The DataSystem goes on to list blocks whose owner is dead until the cluster gives that worker up, a minute or
        more; each load of them would hold the engine for a deadline.
        """
        now = self._clock()
        self._avoided = {digest: until for digest, until in self._avoided.items() if until > now}
        self._avoided |= dict.fromkeys(digests, now + self._config.retry_failed_ms / 1000)

    # -- inner workings ------------------------------------------------------------------------------------------------

    def _found(self, keys: list[str]) -> list[bool]:
        """Return a flag for each of the first keys, as many as were asked."""
        found: list[bool] = []
        began = self._clock()
        slowest = 0.0
        while len(found) < len(keys):
            before = self._clock()
            if found and (before - began + slowest) * 1000 > self._config.lookup_timeout_ms:
                break
            part = keys[len(found) : len(found) + KEYS_PER_CALL]
            answer = self._transport.exist(part)
            slowest = max(slowest, self._clock() - before)
            if answer.cause is not None:
                break
            found += answer.found[: answer.asked]
            if len(found) % KEYS_PER_CALL or not all(found[-len(part) :]):
                break
        self._seconds += self._clock() - began
        return found

    def _answer(self, flags: list[bool], whole: bool) -> Answer:
        missing = next((i for i, flag in enumerate(flags) if not flag), len(flags))
        last = next((i for i in range(len(flags) - 1, -1, -1) if flags[i]), -1)
        ranks = len(self._shards)
        return Answer(missing // ranks, last // ranks + 1 if whole and flags else None)

    def _first_avoided(self, digests: list[bytes]) -> int:
        """Return the position of the first block that is not to be loaded now; their number if there is none."""
        if not self._avoided:
            return len(digests)
        now = self._clock()
        return next((i for i, each in enumerate(digests) if self._avoided.get(each, 0) > now), len(digests))
