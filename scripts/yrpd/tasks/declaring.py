"""What all tasks have in common: the options of every one, their help, and how a command is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invoke import Context
from invoke.tasks import Task

from yrpd.cli import default_hosts_file, execute, resolve_flavour

#: Options that mean the same wherever they occur.
HELP = {
    "pin": "Table under [pins] of release.toml; YRPD_PIN, else the default pin, when empty.",
    "flavour": "npu or cpu; YRPD_FLAVOUR, else npu, when empty.",
    "hosts": "Inventory file; YRPD_HOSTS, else lab.toml (cpu) or hosts.toml (npu), when empty.",
    "engine": "What builds: sdk (the classic builder) or buildx; YRPD_ENGINE, else sdk, when empty.",
    "release": "Name in dist/ or folder of a release; the last image's when empty.",
    "host": "A host of the inventory; this machine's engine when empty.",
    "dry_run": "Print the plan and change nothing.",
    "json": "One JSON document on stdout, all else on stderr.",
    "verbose": "Show details, and a traceback on failure.",
}
_EVERYWHERE = tuple(
    inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False)
    for name in ("dry_run", "json", "verbose")
)

Command = Callable[..., dict[str, Any]]


def command(task: str = "", /, *, default: bool = False, **help: str) -> Callable[[Command], Task[Any]]:
    """Make a task of a function.

    The function gets the project, the reporter and its options, ``dry_run`` only if it takes it, and returns
    the JSON document. Every task takes ``--dry-run``, ``--json`` and ``--verbose``.

    Args:
        task: Its name, when the function's is another.
        default: The task of its namespace.
        help: One line for each option that :data:`HELP` does not explain.
    """

    def declare(function: Command) -> Task[Any]:
        own = list(inspect.signature(function).parameters.values())[2:]
        rehearses = any(option.name == "dry_run" for option in own)
        options = [option for option in own if option.name != "dry_run"]

        def body(_: Context, **given: Any) -> None:
            as_json, verbose = given.pop("json"), given.pop("verbose")
            if not rehearses:
                del given["dry_run"]
            execute(lambda project, reporter: function(project, reporter, **given), as_json=as_json, verbose=verbose)

        context = inspect.Parameter("_", inspect.Parameter.POSITIONAL_ONLY)
        signature = inspect.Signature([context, *options, *_EVERYWHERE])
        body.__signature__ = signature  # type: ignore[attr-defined] # what Invoke reads the options from
        body.__name__, body.__doc__ = task or function.__name__, function.__doc__
        explained = {option: help.get(option) or HELP[option] for option in list(signature.parameters)[1:]}
        return Task(body, name=task or function.__name__, default=default, auto_shortflags=False, help=explained)

    return declare


def hosts_file(hosts: str, flavour: str) -> Path:
    """Return the inventory that is meant."""
    return Path(default_hosts_file(hosts, resolve_flavour(flavour)))
