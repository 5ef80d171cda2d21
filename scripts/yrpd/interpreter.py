"""Is this Python the one that the lock describes? Asked before anything but the standard library is imported."""

from __future__ import annotations

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path

from yrpd.errors import EnvironmentFailure

STAMP = "requirements.sha256"  # scripts/setup.sh writes it into the virtual environment
_NEEDED = ("docker", "git", "pydantic", "requests", "rich", "tenacity", "tomlkit", "yaml")
_NEXT = "bash scripts/quickstart.sh   (or, for the tools alone: bash scripts/test.sh unit)"


def require_environment(root: Path, prefix: Path | None = None) -> None:
    """Refuse a virtual environment that is older than the lock, and a Python without the tools.

    Args:
        root: The checkout.
        prefix: Folder of the environment; the running Python's when ``None``.

    Raises:
        EnvironmentFailure: Either of the two.
    """
    stamp, lock = (prefix or Path(sys.prefix)) / STAMP, root / "requirements.lock"
    if stamp.is_file() and lock.is_file():
        wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
        if stamp.read_text(encoding="utf-8").strip() != wanted:
            raise EnvironmentFailure(f"{stamp.parent.name} was made for another requirements.lock.", next_command=_NEXT)
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        message = f"{sys.executable} lacks {', '.join(missing)}: it is not this project's environment."
        raise EnvironmentFailure(message, next_command=_NEXT)


def require_environment_or_exit(root: Path) -> None:
    """Do the same for a front: the sentence on stderr, and the exit code, in place of a traceback."""
    try:
        require_environment(root)
    except EnvironmentFailure as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
