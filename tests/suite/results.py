"""What became of the stages: counts out of pytest's JUnit files, and the lines that a run ends with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

#: pytest's exit code when no test was selected, as with ``-k`` for one stage alone.
NOTHING_SELECTED = 5


@dataclass(frozen=True)
class Result:
    """What became of a stage.

    Attributes:
        name: The stage's.
        code: Its exit code; 0 when it was not run.
        seconds: What it took.
        busy: Processor seconds of it, over all cores.
        passed: Tests that passed.
        failed: Tests that failed, errors included.
        skipped: Tests that were skipped.
        reason: Why it was not run, or empty.
    """

    name: str
    code: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reason: str = ""

    @property
    def is_good(self) -> bool:
        """Nothing failed."""
        return self.code in (0, NOTHING_SELECTED)


def counts(file: Path) -> tuple[int, int, int]:
    """Return how many tests passed, failed and were skipped, by a JUnit file; zeros if there is none."""
    if not file.exists():
        return 0, 0, 0
    suites = ElementTree.parse(file).getroot().iter("testsuite")  # noqa: S314 - pytest of this run wrote it
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed, skipped


def summary(results: Iterable[Result], clock: float) -> str:
    """Return the table of a run, and as its last line the counts over all stages.

    Args:
        results: What became of the stages.
        clock: What the run took, in seconds; less than its stages together where some ran beside each other.
    """
    results = tuple(results)
    lines = ["", f"  {'':<33} {'clock':>8} {'busy':>8}"]
    for each in results:
        if each.reason:
            lines.append(f"  not run  {each.name:<24} {each.reason}")
            continue
        verdict = "ok" if each.is_good else f"exit {each.code}"
        lines.append(
            f"  {verdict:<8} {each.name:<24} {each.seconds:>6.0f} s {each.busy:>6.0f} s  "
            f"{each.passed} passed, {each.failed} failed, {each.skipped} skipped"
        )
    busy = sum(each.busy for each in results)
    lines.append(f"  {'':<8} {'total':<24} {clock:>6.0f} s {busy:>6.0f} s")
    # A stage of commands has no tests; that it failed must show in the counts.
    broken = sum(1 for each in results if not each.is_good and not each.failed)
    passed, failed, skipped = (sum(getattr(each, name) for each in results) for name in ("passed", "failed", "skipped"))
    lines.append(f"{passed} passed, {failed + broken} failed, {skipped} skipped")
    return "\n".join(lines)
