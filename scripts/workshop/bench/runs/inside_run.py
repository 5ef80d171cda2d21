"""The inner half of ``invoke bench``: runs in the environment that `invoke build --flavour cpu` makes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from workshop.bench.runs.profiles import profile_named
from workshop.bench.runs.running import run
from yrpd.cli import execute


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a profile; the exit code is the error class's."""
    parser = argparse.ArgumentParser(description="the inner half of invoke bench")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--only", default="", help="regular expression of the names of the cases to measure")
    parser.add_argument("--envoy", default="", help="the envoy program")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    execute(
        lambda project, reporter: run(
            project,
            reporter,
            profile_named(options.profile),
            options.model,
            options.folder,
            options.command,
            options.envoy,
            options.only,
        ),
        as_json=False,
        verbose=options.verbose,
    )
