#!/usr/bin/env python3
"""Lines of 120 characters and the field's words in the documents: ``python3 scripts/check_prose.py [FILE ...]``.

mdformat wraps English prose; this also holds table rows, Chinese text and code blocks, and names the words for which
the field has others. All tracked Markdown files when none is named. Ends with 1, and file:line of each finding.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 120
# Whose rows are written by a program, or whose tables are figures that only make sense side by side.
WIDE_ROWS = ("docs/bench/latest.md", "docs/bench/model.md", "docs/faults.md", "docs/connector.md", "docs/release.md")
FROZEN = ("docs/bench/latest.md", "docs/bench/model.md")
WORDS = {
    r"\banew\b": "again, recreated, restarted",
    r"\bexchang\w*\b(?! rate)": "replace; a rolling update",
    r"\bno byte left\b": "is full",
    r"\bof other tools\b": "created by other tools",
    r"\bunder way\b": "in progress, running",
    r"\b(?:is|are) asked of\b": "requested from",
    r"\bbecame of\b": "the outcome of",
    r"\bin the way\b(?! on)": "a problem, blocks",
}


def findings(name: str, text: str) -> Iterator[str]:
    """Yield what is wrong with a document, each with its place.

    Args:
        name: The file, relative to the project.
        text: Its content.
    """
    code, diagram = False, False
    for number, line in enumerate(text.splitlines(), start=1):
        fence = line.lstrip().startswith("```")
        code ^= fence
        diagram = code and (diagram or line.strip() == "```mermaid")
        row = line.lstrip().startswith("|")
        breakable = re.search(r"\S\s+\S", line.lstrip("-*> ")) is not None
        if len(line) > WIDTH and breakable and not diagram and not (row and name in WIDE_ROWS) and name not in FROZEN:
            yield f"{name}:{number}: {len(line)} characters; at most {WIDTH}" + ", or a list in place of the row" * row
        if code or fence or name in FROZEN:
            continue
        for pattern, better in WORDS.items():
            for found in re.finditer(pattern, re.sub(r"`[^`]*`", "", line), re.IGNORECASE):
                yield f"{name}:{number}: {found[0]!r}; say: {better}"


def main(names: Iterable[str]) -> int:
    """Print all findings; return the exit code."""
    wanted = (
        list(names)
        or subprocess.run(
            ["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split("\n")[:-1]
    )
    found = [line for name in wanted for line in findings(name, (ROOT / name).read_text(encoding="utf-8"))]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
