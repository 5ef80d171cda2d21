"""Asks the endpoint scene by scene, and reads P's and D's counters around each."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from yrpd.deploying.status import counters
from yrpd.deploying.verifying.checks import Attempt, Outcome, expect_blocks
from yrpd.deploying.verifying.client import AskError, Server, ask, ask_streaming, get_text
from yrpd.deploying.verifying.questions import Scene, Shot

ATTEMPTS = 4
SETTLE_DEADLINE_S = 60
SETTLE_INTERVAL_S = 0.5
STILL = 3  # equal readings in a row


@dataclass(frozen=True)
class Stage:
    """Where scenes are performed.

    Attributes:
        endpoint: Where requests go.
        model: The model's name in requests.
        prefill: Base URLs of the P instances, for their counters.
        decode: Base URLs of the D instances.
        block_size: Tokens of a KV block.
    """

    endpoint: Server
    model: str
    prefill: tuple[str, ...]
    decode: tuple[str, ...]
    block_size: int

    def perform(self, scene: Scene) -> list[Attempt]:
        """Perform a scene, again under other salts as long as blocks are missing because the DataSystem was late.

        Raises:
            AskError: The counters cannot be read.
        """
        attempts: list[Attempt] = []
        while len(attempts) < ATTEMPTS:
            attempts.append(self._attempt(scene))
            if attempts[-1].travelled or not attempts[-1].answered:
                break
            self._settle()
        return attempts

    def counters(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return P's and D's counters.

        Raises:
            AskError: They cannot be read.
        """
        prefill, decode = (
            counters.total(counters.read_counters(get_text(f"{base}/metrics")) for base in bases)
            for bases in (self.prefill, self.decode)
        )
        return prefill, decode

    def _attempt(self, scene: Scene) -> Attempt:
        before = self.counters()
        outcomes = self._ask_all(scene, uuid.uuid4().hex)
        prefill, decode = (counters.growth(*pair) for pair in zip(before, self.counters(), strict=True))
        exact = len(self.prefill) == len(self.decode) == 1
        return Attempt(tuple(outcomes), prefill, decode, expect_blocks(outcomes, self.block_size, exact=exact))

    def _ask_all(self, scene: Scene, salt: str) -> Sequence[Outcome]:
        if not scene.together:
            return [self._ask(shot, salt) for shot in scene.shots]
        with ThreadPoolExecutor(max_workers=max(1, len(scene.shots))) as pool:
            return list(pool.map(self._ask, scene.shots, [f"{salt}-{shot.name}" for shot in scene.shots]))

    def _ask(self, shot: Shot, salt: str) -> Outcome:
        try:
            if shot.stream:
                answer, first, chunks = ask_streaming(self.endpoint, self.model, shot.question, salt)
                return Outcome(shot, answer, first_token_s=first, chunks=chunks)
            return Outcome(shot, ask(self.endpoint, self.model, shot.question, salt))
        except AskError as error:
            return Outcome(shot, None, str(error))

    def _settle(self) -> None:
        """Wait until late saves of an attempt are counted and no worker is out of reach, or the deadline passes."""
        readings: list[object] = []

        def is_busy() -> bool:
            readings.append(self.counters())
            bases = (*self.prefill, *self.decode)
            is_open = any(counters.breaker_is_open(get_text(f"{base}/metrics")) for base in bases)
            return is_open or len(readings) < STILL or readings[-1] != readings[-STILL]

        with suppress(RetryError):
            Retrying(
                stop=stop_after_delay(SETTLE_DEADLINE_S),
                wait=wait_fixed(SETTLE_INTERVAL_S),
                retry=retry_if_result(bool),
            )(is_busy)
