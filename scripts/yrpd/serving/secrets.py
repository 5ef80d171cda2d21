"""Becomes another program with variables read from files: ``python3 -m yrpd.serving.secrets NAME=FILE ... -- PROGRAM``.

A secret that is part of a container's definition is shown by ``docker inspect`` to everyone who may ask the engine, and
one on a command line by ``ps`` to every user of the host. Here the definition holds the file's path alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SEPARATOR = "--"


def read_secrets(assignments: Sequence[str]) -> dict[str, str]:
    """Return the variables, each with its file's content less the line end.

    Args:
        assignments: ``NAME=FILE`` each.

    Raises:
        ValueError: One is not of this form, or its file is empty; the file's content is never in the message.
        OSError: A file cannot be read.
    """
    found: dict[str, str] = {}
    for assignment in assignments:
        name, equals, file = assignment.partition("=")
        if not equals or not name.isidentifier() or not file:
            raise ValueError(f"expected NAME=FILE, got {assignment!r}")
        content = Path(file).read_text(encoding="utf-8").strip("\r\n")
        if not content:
            raise ValueError(f"the secret file {file} for {name} is empty")
        found[name] = content
    return found


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the assignments and the program with its arguments.

    Raises:
        ValueError: There is no program.
    """
    at = list(arguments).index(SEPARATOR) if SEPARATOR in arguments else len(arguments)
    assignments, program = list(arguments[:at]), list(arguments[at + 1 :])
    if not program:
        raise ValueError(f"expected NAME=FILE ... {SEPARATOR} PROGRAM ARGUMENT ...")
    return assignments, program


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Become the program; returns only by replacing the process."""
    try:
        assignments, program = split(sys.argv[1:] if arguments is None else arguments)
        variables = read_secrets(assignments)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    os.execvpe(program[0], program, {**(environment or os.environ), **variables})  # noqa: S606


if __name__ == "__main__":
    main()
