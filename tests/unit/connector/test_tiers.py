"""The DataSystem worker's log becomes counts per tier, whatever the log holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from yuanrong.tiers import TIERS, TierFigures, TierWatch, growth, parse

COUNTS = st.fixed_dictionaries(dict.fromkeys(TIERS, st.integers(0, 10**9)))


def line(counts: dict[str, int], memory: int = 57098240, disk: str = "188219392/188219392/2147483648/0.088") -> str:
    """A line as worker 0.8.1 writes it."""
    columns = ["2026-01-01T00:00:00.000001", "I", "collector.cpp:116", "", "7:8", "trace", "",
               f"{memory}/66666496/67108864/0.851/0/10010624", disk, "1", "408", "46741072",
               *["0/16/0/0/0.000"] * 16, "/".join(str(counts[tier]) for tier in TIERS), ""]  # fmt: skip
    return " | ".join(columns) + "\n"


class Sink:
    """Adds up as the counters do."""

    def __init__(self) -> None:
        self.reads: dict[str, float] = {}
        self.held: dict[str, float] = {}

    def tier(self, tier: str, reads: float = 0, held_bytes: float | None = None) -> None:
        """Count."""
        self.reads[tier] = self.reads.get(tier, 0) + reads
        if held_bytes is not None:
            self.held[tier] = held_bytes


def watch(path: Path, sink: Any) -> TierWatch:
    return TierWatch(path, sink)


@given(COUNTS, st.integers(0, 10**12))
def test_a_line_is_read_as_it_was_written(counts: dict[str, int], memory: int) -> None:
    assert parse(line(counts, memory)) == TierFigures(counts, {"memory": memory, "disk": 188219392})


def test_without_a_spill_folder_there_is_no_disk() -> None:
    figures = parse(line(dict.fromkeys(TIERS, 0), disk=""))
    assert figures is not None
    assert figures.held["disk"] == 0


@given(st.text())
def test_anything_else_is_no_figures(text: str) -> None:
    assert parse(text) is None


@given(COUNTS, COUNTS)
def test_growth_adds_up_and_is_never_negative(before: dict[str, int], more: dict[str, int]) -> None:
    after = {tier: before[tier] + more[tier] for tier in TIERS}
    assert growth(before, after) == more
    assert all(count >= 0 for count in growth(after, before).values())


def test_a_worker_that_began_anew_counts_from_nothing() -> None:
    assert growth(dict.fromkeys(TIERS, 9), {**dict.fromkeys(TIERS, 0), "disk": 2})["disk"] == 2


def test_counts_grow_by_what_was_read_since_the_first_look(tmp_path: Path) -> None:
    log, sink = tmp_path / "resource.log", Sink()
    watching = watch(log, sink)
    watching.look()
    assert sink.reads == {}, "there is no log yet"
    counts = dict(zip(TIERS, (100, 10, 0, 3, 7), strict=True))
    log.write_text("first line\n" + line(counts))
    watching.look()
    assert sum(sink.reads.values()) == 0, "what was read before this engine began is not counted"
    assert sink.held == {"memory": 57098240, "disk": 188219392}
    with log.open("a") as more:
        more.write(line({**counts, "disk": 25}) + "half a li")
    watching.look()
    assert sink.reads == {**dict.fromkeys(TIERS, 0), "disk": 15}
    log.write_text("")
    watching.look()
    assert sink.reads["disk"] == 15


def test_the_watch_looks_until_it_is_told_to_end(tmp_path: Path) -> None:
    log, sink, answers = tmp_path / "resource.log", Sink(), [False, False, True]
    log.write_text(line(dict.fromkeys(TIERS, 1)))
    watching = TierWatch(log, sink, lambda _: answers.pop(0))  # type: ignore[arg-type]
    watching.run()
    assert answers == []
    assert sink.held["memory"] == 57098240
    answers.append(True)
    watching.start()
