"""Between a command line and the command modules: how a command runs, its errors and exit codes, for every front."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from rich.console import Console

from yrpd.errors import YrpdError
from yrpd.options import Command, resolve
from yrpd.project import Project
from yrpd.reporting import Reporter


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what is open is closed, and processes are ended, as for Ctrl-C."""


INTERRUPTED, TERMINATED = 130, 143  # what shells report for SIGINT and SIGTERM
UNEXPECTED = 1


def run(command: Command, given: Mapping[str, Any], project: Project, reporter: Reporter) -> dict[str, Any]:
    """Resolve a command's options and run it; its module is imported now, so that listing commands stays quick.

    Args:
        command: The command.
        given: What was typed, by the option's name.
        project: The checkout, or the release folder.
        reporter: Says what is done.

    Returns:
        The JSON document.

    Raises:
        ConfigurationError: An option is wrong, or not the command's.
    """
    values = resolve(command, given, os.environ, project)
    module, _, function = command.target.partition(":")
    document: dict[str, Any] = getattr(import_module(module), function)(project=project, reporter=reporter, **values)
    return document


def execute(
    command: Callable[[Project, Reporter], dict[str, Any]],
    *,
    as_json: bool,
    verbose: bool,
    project: Project | None = None,
    say_next: Callable[[str], str] = str,
) -> None:
    """Run one command, print its document when asked, and turn its failure into an exit code.

    Args:
        command: Gets the project and the reporter, returns the JSON document.
        as_json: One JSON document on stdout, all else on stderr.
        verbose: Show details, and a traceback on failure.
        project: The checkout that this is part of, when ``None``.
        say_next: Makes of an error's next command what is typed with this front.

    Raises:
        SystemExit: The command failed; the code is the error class's (design: 2 to 9), 130 for an
            interrupt, 143 for SIGTERM.
    """
    reporter = Reporter(as_json=as_json, verbose=verbose)
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        reporter.result(command(project or Project.here(), reporter))
    except YrpdError as error:
        error.next_command = say_next(error.next_command)
        if verbose:
            console.print_exception()
        if error.detail:
            console.print(error.detail, style="dim")
        console.print(f"error: {error.message}", style="bold red")
        if error.next_command:
            console.print(f"next:  {error.next_command}")
        if error.document is not None:
            reporter.result(error.document)
        else:
            reporter.result({"error": error.message, "next": error.next_command, "exit_code": error.exit_code})
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt as interrupt:
        console.print("interrupted; run the same command again to go on.")
        raise SystemExit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED) from None
    except Exception as error:
        if verbose:
            console.print_exception()
        console.print(f"error: unexpected {type(error).__name__}: {error}", style="bold red")
        if not verbose:
            console.print("next:  the same command with --verbose shows where")
        raise SystemExit(UNEXPECTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_: int, __: object) -> None:
    # Once: a second signal while things are being closed must not leave the rest open.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
