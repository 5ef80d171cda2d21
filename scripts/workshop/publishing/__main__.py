"""``bash scripts/release.sh``."""

from __future__ import annotations

import argparse
from pathlib import Path

from workshop.publishing.publish import publish
from yrpd.cli import execute


def main() -> None:
    """Parse the options and release the checkout that the shell stands in."""
    parser = argparse.ArgumentParser(
        prog="bash scripts/release.sh", description="Release this project: sdist, wheel, tag."
    )
    parser.add_argument("--dry-run", action="store_true", help="check and build, but write neither files nor tag")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, all else on stderr")
    parser.add_argument("--verbose", action="store_true", help="details, and a traceback on failure")
    options = parser.parse_args()
    execute(
        lambda _, reporter: publish(Path.cwd(), reporter, dry_run=options.dry_run),
        as_json=options.json,
        verbose=options.verbose,
    )


if __name__ == "__main__":
    main()
