"""Which lines of what the series adds or touches are executed by served requests: ``bash scripts/test.sh coverage``.

``sitecustomize.py`` measures in every process of the engines under test, and of nothing else: not in the tests' own.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "SERVED_COVERAGE"  # names the folder that gets the figures; without it nothing is measured


def paths() -> list[str]:
    """Return what an engine's ``PYTHONPATH`` needs beside its own."""
    return [str(Path(__file__).parent)] if os.environ.get(FOLDER) else []
