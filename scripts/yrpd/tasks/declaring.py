"""Makes Invoke's tasks of commands: an option of the command is an option of the task, nothing is looked up twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from invoke import Collection, Context
from invoke.parser import Argument
from invoke.tasks import Task

from yrpd.cli import execute, run
from yrpd.options import Command
from yrpd.tasks import deploy, doctor, image, patch

#: All of the product's.
COMMANDS = (*image.COMMANDS, *patch.COMMANDS, *deploy.COMMANDS, *doctor.COMMANDS)


class CommandTask(Task[Callable[..., None]]):
    """The task of a command.

    Args:
        command: The command.
    """

    def __init__(self, command: Command) -> None:
        def body(_: Context, **given: Any) -> None:
            execute(
                lambda project, reporter: run(command, given, project, reporter),
                as_json=given.get("json", False),
                verbose=given.get("verbose", False),
            )

        body.__doc__ = command.summary
        super().__init__(body, name=command.name.rpartition(".")[2], positional=(), default=command.default)
        self.command = command

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the command's options, in place of the body's parameters."""
        return [
            Argument(
                names=(option.flag.removeprefix("--"),),
                # Invoke wants it only where it is another name.
                attr_name=option.name if "_" in option.name else None,
                kind=type(option.default),
                # What was not typed is empty here: the variable comes before the default.
                default="" if option.variable else option.default,
                help=option.help,
            )
            for option in self.command.declared()
        ]

    # Invoke takes tasks of one name and one code for the same, and then runs only the first of them.
    def __eq__(self, other: object) -> bool:
        """Two commands are two tasks, also when both are called ``status``."""
        return isinstance(other, CommandTask) and self.command is other.command

    def __hash__(self) -> int:
        """Return what goes with equality."""
        return hash(self.command.name)


def collection(commands: Iterable[Command]) -> Collection:
    """Return the tasks, each in the namespace that its name says."""
    top, spaces = Collection(), dict[str, Collection]()
    for command in commands:
        space = command.name.rpartition(".")[0]
        (spaces.setdefault(space, Collection(space)) if space else top).add_task(CommandTask(command))
    for each in spaces.values():
        top.add_collection(each)
    return top
