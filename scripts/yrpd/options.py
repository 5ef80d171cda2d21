"""The options of all commands: declared once and resolved once, whichever front parsed them.

A command is data: its name, its options and the function that does the work. Invoke's tasks and ``deploy.pyz`` are made
from it, so an option means the same in both: what was typed, else the variable, else the default. What a command cannot
do it refuses with a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.release import load_release

Value = str | int | float | bool


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: As Python writes it; a command line has dashes for the underscores.
        help: One line.
        default: What it is when neither it nor its variable is given; the option's type is this value's.
        variable: Environment variable that is read when the option is not given.
        parameter: The function's parameter that gets it, where that has another name.
        choices: The only values; empty means any.
    """

    name: str
    help: str
    default: Value = ""
    variable: str = ""
    parameter: str = ""
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return "--" + self.name.replace("_", "-")


FLAVOUR = Option("flavour", "npu or cpu; else YRPD_FLAVOUR, else npu.", "npu", "YRPD_FLAVOUR", choices=("npu", "cpu"))
PIN = Option("pin", "Table under [pins] of release.toml; else YRPD_PIN, else the default pin.", variable="YRPD_PIN")
HOSTS = Option(
    "hosts",
    "Inventory file; else YRPD_HOSTS, else hosts.toml (npu) or lab.toml (cpu).",
    variable="YRPD_HOSTS",
    parameter="hosts_file",
)
LAB_HOSTS = replace(HOSTS, help="Inventory file of the lab; else YRPD_HOSTS, else lab.toml.", default="lab.toml")
RELEASE = Option("release", "Name in dist/ or folder of a release; the last image's when empty.")
HOST = Option("host", "A host of the inventory; this machine's engine when empty.")

#: Every command takes these three, or says why it has no use for one.
SHARED = (FLAVOUR, PIN, HOSTS)

DRY_RUN = Option("dry_run", "Print the plan and change nothing.", False)
JSON = Option("json", "One JSON document on stdout, all else on stderr.", False)
VERBOSE = Option("verbose", "Show details, and a traceback on failure.", False)
_NOTHING_TO_REHEARSE = replace(DRY_RUN, help="Makes no difference: this command changes nothing.")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: Where it is among Invoke's tasks, such as ``deploy.plan``.
        summary: One line.
        target: ``module:function``; the function takes ``project``, ``reporter``, what the options name, and
            ``dry_run`` unless the command changes nothing, and returns the JSON document.
        options: Its options, besides those that all commands take.
        refuses: For each of :data:`SHARED` that it does not take: why, as the end of a sentence.
        default: The command that its namespace alone stands for.
        changes_nothing: It only looks, so that a dry run is the same as a run.
    """

    name: str
    summary: str
    target: str
    options: tuple[Option, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    default: bool = False
    changes_nothing: bool = False

    @property
    def typed(self) -> str:
        """Its name as it is typed."""
        return self.name.rpartition(".")[0] if self.default else self.name

    @property
    def dry_run(self) -> Option:
        """What ``--dry-run`` is here."""
        return _NOTHING_TO_REHEARSE if self.changes_nothing else DRY_RUN

    def declared(self) -> tuple[Option, ...]:
        """Return every option that its command line accepts, those that it refuses with a reason among them."""
        refused = [
            Option(option.name, f"Refused here: {self.refuses[option.name]}.")
            for option in SHARED
            if option.name in self.refuses
        ]
        return (*self.options, *refused, self.dry_run, JSON, VERBOSE)


def resolve(
    command: Command, given: Mapping[str, Value], environment: Mapping[str, str], project: Project
) -> dict[str, Any]:
    """Return what a command's function is called with, besides the project and the reporter.

    Args:
        command: The command.
        given: What the command line says, by the option's name; an option that is missing or empty was not given.
        environment: The process' variables.
        project: Tells which pins there are, and what a relative inventory belongs to.

    Raises:
        ConfigurationError: The command does not take an option, or a value is none of the option's.
    """
    for name, reason in command.refuses.items():
        if given.get(name):
            message = f"{command.typed} takes no --{name}: {reason}."
            raise ConfigurationError(message, next_command=f"invoke --help {command.typed}")
    values: dict[str, Any] = {option.name: _value(option, given, environment) for option in command.options}
    if values.get("pin"):
        load_release(project.release_file).pin(str(values["pin"]))
    if "hosts" in values:
        values["hosts"] = find_hosts_file(str(values["hosts"]), str(values.get("flavour", "")), project.root)
    resolved = {option.parameter or option.name: values[option.name] for option in command.options}
    return resolved if command.changes_nothing else {**resolved, "dry_run": bool(given.get("dry_run"))}


def find_hosts_file(named: str, flavour: str, root: Path) -> Path:
    """Return where the inventory is: the only place that decides it.

    Args:
        named: Its name; empty means the flavour's own.
        flavour: ``npu`` or ``cpu``.
        root: What a relative name is seen from, unless the folder that the command was typed in has such a file.
    """
    path = Path(named or ("lab.toml" if flavour == "cpu" else "hosts.toml"))
    return path if path.is_absolute() or path.exists() else root / path


def _value(option: Option, given: Mapping[str, Value], environment: Mapping[str, str]) -> Value:
    # An empty option is one that was not given: `--pin "$PIN"` with no PIN means the variable, else the default.
    value = given.get(option.name, option.default)
    if option.variable:
        value = given.get(option.name) or environment.get(option.variable) or option.default
    if option.choices and value not in option.choices:
        source = option.flag if given.get(option.name) else option.variable
        message = f"There is no {option.name} {value!r} ({source}); there are: {', '.join(option.choices)}."
        raise ConfigurationError(message, next_command=f"{option.flag} {option.choices[0]}")
    return value
