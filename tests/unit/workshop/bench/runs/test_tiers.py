from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from workshop.bench.runs.tiers import TierLog


def parse(line: str) -> Mapping[str, int] | None:
    if "|" not in line:
        return None
    memory, disk, missing = map(int, line.split("|"))
    return {"memory": memory, "disk": disk, "missing": missing}


def test_the_newest_complete_line_counts(tmp_path: Path) -> None:
    log = TierLog(tmp_path / "resource.log", parse)
    assert log.reads() == {}
    log.path.write_text("1|0|0\n2|1|5\nsomething else\n9|9|", encoding="utf-8")
    assert log.reads() == {"memory": 2, "disk": 1, "missing": 5}


def test_figures_under_way_are_waited_for(tmp_path: Path) -> None:
    lines: Iterator[str] = iter(["10|0|0\n", "14|0|0\n", "14|6|3\n", "20|20|20\n"])
    path = tmp_path / "resource.log"

    class Growing(TierLog):
        def reads(self) -> dict[str, int]:
            path.write_text(next(lines), encoding="utf-8")
            return super().reads()

    log = Growing(path, parse)
    assert log.since(log.reads(), 10) == {"memory": 4, "disk": 6}


def test_patience_ends_with_what_was_counted(tmp_path: Path) -> None:
    log = TierLog(tmp_path / "resource.log", parse, patience_s=0)
    log.path.write_text("3|1|0\n", encoding="utf-8")
    assert log.since({"memory": 1}, 10) == {"memory": 2, "disk": 1}
