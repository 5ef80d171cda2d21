"""The inner half of ``scripts/bench_connector.py``: runs in the built environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from workshop.bench.commands import PARTS, run
from yrpd.cli import execute

DEFAULT_ROUNDS = 15


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="bench_connector.py", description="Benchmark of the connector (docs/bench/)")
    parser.add_argument("--rounds", type=_positive, default=DEFAULT_ROUNDS, help="rounds of each comparison")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part alone; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, all else on stderr")
    parser.add_argument("--verbose", action="store_true", help="a traceback on failure")
    return parser.parse_args(arguments)


def command_line(options: argparse.Namespace) -> str:
    """Return what to type for the same run."""
    words = [".venv/bin/python", "scripts/bench_connector.py", "--rounds", str(options.rounds)]
    for part in options.only or ():
        words += ["--only", part]
    return " ".join(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; the exit code is the error class's. A missed goal is a result and not an error."""
    options = parse(arguments)
    execute(
        lambda project, reporter: run(
            project, reporter, command_line(options), options.rounds, tuple(options.only or PARTS)
        ),
        as_json=options.json,
        verbose=options.verbose,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number
