"""The command line of ``deploy.pyz``: ``invoke deploy*`` where there is no Invoke and no checkout."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace

from yrpd.cli import execute, run
from yrpd.options import FLAVOUR, HOSTS, JSON, PIN, VERBOSE, Command, Option
from yrpd.project import Project
from yrpd.tasks.deploy import COMMANDS

_DEPLOY = re.compile(r"\binvoke deploy(?:\.(?P<action>\w+))?(?P<flavour> --flavour \w+)?")
_ELSEWHERE = re.compile(r"^(?P<command>invoke (?:image|build|patch|lab)\b[^#]*?)\s*(?:#.*)?$")
_HOSTS = replace(HOSTS, help="Inventory file; else YRPD_HOSTS, else hosts.toml.")
# A release folder has one flavour and one pin, those of its manifest.
_OF_THE_RELEASE = {FLAVOUR.name, PIN.name}


def actions() -> dict[str, Command]:
    """Return the commands by what is typed for them, the default one first."""
    return {
        command.typed.rpartition(".")[2]: replace(
            command,
            options=tuple(
                _HOSTS if option is HOSTS else option
                for option in command.options
                if option.name not in _OF_THE_RELEASE
            ),
        )
        for command in COMMANDS
    }


def parse(program: str, arguments: Sequence[str] | None = None) -> tuple[Command, dict[str, str | int | float | bool]]:
    """Parse the command line; what is wrong in it ends the process with a sentence and exit code 2.

    Args:
        program: What people type to run it.
        arguments: The words after the program's name; the process' own when ``None``.

    Returns:
        The command, and what was typed for it, by the option's name.
    """
    known = actions()
    default = next(iter(known))
    parser = argparse.ArgumentParser(
        prog=program,
        description="Deploy prefill and decode on the inventory's hosts.",
        epilog="\n".join(f"{action:10}{command.summary}" for action, command in known.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("action", nargs="?", choices=known, default=default, help=f"what to do (default: {default})")
    takes: dict[Option, list[str]] = {}
    for action, command in known.items():
        for option in command.options:
            takes.setdefault(option, []).append(action)
    for option, of in takes.items():
        few = f" ({', '.join(of)})" if len(of) < len(known) else ""
        _add(parser, option, option.help + few)
    for option in (known[default].dry_run, JSON, VERBOSE):
        _add(parser, option, option.help)
    given = vars(parser.parse_args(arguments))
    action = given.pop("action")
    for option, of in takes.items():
        if option.name in given and action not in of:
            parser.error(f"{action} takes no {option.flag}; {', '.join(of)} does")
    return known[action], given


def _add(parser: argparse.ArgumentParser, option: Option, explained: str) -> None:
    if isinstance(option.default, bool):
        parser.add_argument(option.flag, action="store_true", help=explained)
    else:
        parser.add_argument(option.flag, type=type(option.default), help=explained, metavar=option.name.upper())


def main(project: Project, program: str) -> None:
    """Run one command; the exit code is the error class's.

    Args:
        project: The release folder.
        program: What people type to run it.
    """
    command, given = parse(program)
    execute(
        lambda project, reporter: run(command, given, project, reporter),
        as_json=bool(given.get("json")),
        verbose=bool(given.get("verbose")),
        project=project,
        say_next=lambda text: without_invoke(text, program),
    )


def without_invoke(text: str, program: str) -> str:
    """Return a next command as it is typed where there is no Invoke and no checkout."""
    text = _ELSEWHERE.sub(r"\g<command>  # in the checkout that made this release", text)
    return _DEPLOY.sub(lambda found: f"{program} {found['action'] or 'deploy'}", text)
