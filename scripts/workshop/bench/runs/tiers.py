"""Which tier of the DataSystem served a measurement, from the worker's own figures.

The worker writes them at intervals, so they are waited for: as many reads as blocks were loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

#: Flags of the worker: figures often enough to wait for them, and a disk below its memory.
INTERVAL_MS = 250
_PATIENCE_S = 10


def worker_flags(home: Path, disk_mb: int) -> list[str]:
    """Return the worker's flags.

    Args:
        home: Its folder.
        disk_mb: MiB of disk for what does not fit into its memory.
    """
    return [
        f"spill_directory={home / 'spill'}",
        f"spill_size_limit={disk_mb << 20}",
        f"log_monitor_interval_ms={INTERVAL_MS}",
    ]


@dataclass(frozen=True)
class TierLog:
    """The worker's ``resource.log``.

    Attributes:
        path: The file.
        parse: Returns the reads since the worker's start by tier of one line, None for another line.
        patience_s: How long to wait for figures that are under way.
    """

    path: Path
    parse: Callable[[str], Mapping[str, int] | None]
    patience_s: float = _PATIENCE_S

    def reads(self) -> dict[str, int]:
        """Return the newest figures; none before the first line."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0].splitlines()
        except FileNotFoundError:
            return {}
        return next((dict(found) for line in reversed(lines) if (found := self.parse(line)) is not None), {})

    def since(self, before: Mapping[str, int], blocks: int) -> dict[str, int]:
        """Return how many blocks each tier served since, once all of them are counted or patience ends.

        Args:
            before: The figures of then.
            blocks: Blocks that were loaded since.
        """

        def grown() -> dict[str, int]:
            return {tier: count - before.get(tier, 0) for tier, count in self.reads().items() if tier != "missing"}

        uncounted = retry_if_result(lambda found: sum(found.values()) < blocks)
        try:
            return Retrying(retry=uncounted, stop=stop_after_delay(self.patience_s), wait=wait_fixed(0.1))(grown)
        except RetryError:
            return grown()
