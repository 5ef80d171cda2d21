"""One fault under load: the stream before, while it lasts, while it is mended, and after."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from tenacity import RetryError, Retrying, retry_if_not_result, stop_after_delay, wait_fixed

from workshop.faults.cases import Fault
from workshop.faults.known import Known
from workshop.faults.leftovers import leftovers
from workshop.faults.site import Site
from workshop.faults.stream import Sent, Stream, tally
from yrpd.deploying.status.counters import read_counters, total
from yrpd.deploying.verifying.client import AskError, get_text
from yrpd.errors import DeployError

BEFORE = 4  # right answers before anything happens
DURING = 10  # right answers while the fault lasts; where none can come, so many seconds pass
AFTER = 8  # right answers after it is mended
LASTS_S = 25.0
RIGHT_AGAIN_S = 300.0
LOADS_AGAIN_S = 90.0


@dataclass(frozen=True)
class Row:
    """What a fault did.

    Attributes:
        fault: Its name.
        sent: Every request, from before the fault until after it was mended.
        began: When it began, and when mending began, on the requests' clock: the seconds between are the fault's.
        mending: See there.
        mended: When all was mended.
        loaded: Blocks that D loaded after it was mended.
        left: What is left behind.
        shared_mb: Shared memory of the machine, which pools are made of, before the fault and after all of it.
    """

    fault: str
    sent: tuple[Sent, ...]
    began: float
    mending: float
    mended: float
    loaded: int
    left: tuple[str, ...]
    shared_mb: tuple[int, int] = (0, 0)

    def while_it_lasted(self) -> tuple[Sent, ...]:
        """Return requests that were under way while the fault lasted, before mending began."""
        return tuple(e for e in self.sent if e.began + e.seconds >= self.began and e.began + e.seconds < self.mending)

    @property
    def right_again_s(self) -> float:
        """Seconds from when all was mended to the first right answer of a request sent since; infinite without one."""
        ends = [e.began + e.seconds for e in self.sent if e.verdict == "right" and e.began >= self.mended]
        return min(ends, default=float("inf")) - self.mended

    @property
    def is_good(self) -> bool:
        """Whether no answer was wrong or hung, every failure was clean, nothing is left, and blocks travel again."""
        counted = tally(self.sent)
        bad = counted["wrong"] + counted["hung"] + counted["unclean"]
        return not bad and not self.left and self.loaded > 0 and self.right_again_s < RIGHT_AGAIN_S

    def document(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        counted = tally(self.sent)
        return {
            "fault": self.fault,
            "sent": len(self.sent),
            **{str(verdict): count for verdict, count in counted.items()},
            "left": list(self.left),
            "slowest_right_s": round(max((e.seconds for e in self.sent if e.verdict == "right"), default=0.0), 1),
            "fault_s": round(self.mending - self.began, 1),
            "mending_s": round(self.mended - self.mending, 1),
            "right_again_s": round(self.right_again_s, 1),
            "loaded_after": self.loaded,
            "shared_mb": list(self.shared_mb),
            "problems": sorted({f"{e.verdict}: {e.name}: {e.problem}" for e in self.sent if e.verdict != "right"})[:20],
            "good": self.is_good,
        }


def measure(fault: Fault, site: Site, known: Known) -> Row:
    """Make a fault happen under load, and mend it.

    Raises:
        DeployError: The deployment does not answer right even before, or what mends the fault fails.
    """
    with Stream(known) as stream:
        if not stream.wait_for(BEFORE, stream.now(), RIGHT_AGAIN_S):
            raise DeployError(f"The deployment does not answer right before {fault.name!r}.")
        shared, began = _shared_mb(), stream.now()
        with fault.happens(site):
            if fault.lasts_s:
                Event().wait(fault.lasts_s)
            else:
                stream.wait_for(DURING, stream.now(), LASTS_S)
            mending = stream.now()
        mended = stream.now()
        before = _loaded(site)
        stream.wait_for(AFTER, mended, RIGHT_AGAIN_S)
        loaded = _loaded_since(site, before)
    return Row(
        fault.name,
        stream.sent(),
        began,
        mending,
        mended,
        loaded,
        tuple(leftovers(site.deployment, site.lab, site.clients)),
        (shared, _shared_mb()),
    )


def _shared_mb() -> int:
    """Return ``Shmem`` of proc(5): pages of pools count once, however many processes have mapped them."""
    found = re.search(r"^Shmem:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) // 1000 if found else 0


def _loaded_since(site: Site, before: float) -> int:
    """Return how many blocks D has loaded since; zero only when none came for long enough for any breaker to close."""

    def grown() -> int:
        return int(_loaded(site) - before)

    with suppress(RetryError):
        Retrying(stop=stop_after_delay(LOADS_AGAIN_S), wait=wait_fixed(1), retry=retry_if_not_result(bool))(grown)
    return grown()


def _loaded(site: Site) -> float:
    decode = [spec for spec in site.deployment.specs if spec.role == "decode"]
    hosts = site.deployment.inventory
    try:
        texts = [get_text(f"http://{hosts.host(spec.host).address}:{spec.ports[0]}", "/metrics") for spec in decode]
    except AskError:
        return 0.0  # a D that starts has loaded nothing
    return total(map(read_counters, texts))["loaded_blocks"]
