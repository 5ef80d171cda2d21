# SPDX-License-Identifier: Apache-2.0
"""Which tier served the DataSystem's reads: read from the worker's own log.

The client (0.8.1) does not tell where an object was. The worker does: with its flag ``log_monitor`` (on by default)
it appends a line of figures to ``resource.log`` every ``log_monitor_interval_ms``. The figures are separated by ``|``
after seven columns of the log's own. The first is shared memory, the second the spill folder, both beginning with the
bytes in use; the 22nd counts reads of objects since the worker's start: memory, disk, L2 cache, other workers, missing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .metrics import Metrics

logger = logging.getLogger("vllm.yuanrong")

#: Order of the counts in the worker's log.
TIERS = ("memory", "disk", "l2", "remote", "missing")
_COLUMNS_BEFORE = 7
_MEMORY, _SPILL, _HITS = 0, 1, 21
_TAIL_BYTES = 16384
_INTERVAL_S = 1.0


@dataclass(frozen=True)
class TierFigures:
    """One line of the worker's log.

    Attributes:
        reads: Reads since the worker's start, by tier.
        held: Bytes in use, of memory and disk.
    """

    reads: dict[str, int]
    held: dict[str, int]


def parse(line: str) -> TierFigures | None:
    """Return the figures of a line of ``resource.log``; None if it is not one."""
    columns = [column.strip() for column in line.split("|")][_COLUMNS_BEFORE:]
    try:
        counts = [int(count) for count in columns[_HITS].split("/")]
        held = {
            "memory": int(columns[_MEMORY].split("/")[0]),
            "disk": int((columns[_SPILL] or "0").split("/")[0]),
        }
        return TierFigures(dict(zip(TIERS, counts, strict=True)), held)
    except (IndexError, ValueError):
        return None


def growth(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return by how much the counts grew; a count that fell is a worker that began anew."""
    if any(after[tier] < before.get(tier, 0) for tier in after):
        before = {}
    return {tier: after[tier] - before.get(tier, 0) for tier in after}


class TierWatch:
    """Carries the worker's figures to ``/metrics``, as long as its log can be read.

    Args:
        path: The worker's ``resource.log``.
        metrics: Sink.
        wait: Pauses between two looks; returns True to end.
    """

    def __init__(self, path: Path, metrics: Metrics, wait: Callable[[float], bool] | None = None) -> None:
        self._path = path
        self._metrics = metrics
        self._wait = wait or threading.Event().wait
        self._seen: dict[str, int] | None = None

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self.run, name="yuanrong-tiers", daemon=True).start()

    def run(self) -> None:
        """Look until the wait says to end."""
        while not self._wait(_INTERVAL_S):
            self.look()

    def look(self) -> None:
        """Add what was read since the last look. The first one is where counting begins."""
        figures = parse(self._last_line())
        if figures is None:
            return
        reads = dict.fromkeys(figures.reads, 0) if self._seen is None else growth(self._seen, figures.reads)
        self._seen = figures.reads
        for tier, count in reads.items():
            self._metrics.tier(tier, count, figures.held.get(tier))

    def _last_line(self) -> str:
        try:
            with self._path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                complete = log.read().decode("utf-8", errors="replace").rpartition("\n")[0]
        except OSError as error:
            logger.debug("no figures of the DataSystem worker: %s", type(error).__name__)
            return ""
        return complete.rpartition("\n")[2]
