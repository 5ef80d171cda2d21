"""A task is its command: the same options, each explained, and what was typed is handed on."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest
from invoke import Context
from invoke.parser import Parser

from workshop.tasks import COMMANDS as WORKSHOP
from yrpd.errors import ConfigurationError
from yrpd.options import FLAVOUR, HOSTS, PIN, Command, Option
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.tasks.declaring import COMMANDS as PRODUCT
from yrpd.tasks.declaring import CommandTask, collection

COMMANDS = (*PRODUCT, *WORKSHOP)

REFUSES = {option.name: "it has none" for option in (FLAVOUR, PIN, HOSTS)}


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with functions for commands to be of."""
    module = ModuleType("commands_for_a_test")

    def run(project: Project, reporter: Reporter, dry_run: bool, count: int = 0) -> dict[str, Any]:
        return {"count": count, "dry_run": dry_run, "verbose": reporter.verbose}

    def look(project: Project, reporter: Reporter) -> dict[str, Any]:
        return {"seen": True}

    def fail(project: Project, reporter: Reporter, dry_run: bool) -> dict[str, Any]:
        raise ConfigurationError("Nothing is right.")

    for function in (run, look, fail):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_is_explained_and_every_task_has_the_common_ones(command: Command) -> None:
    options = {str(option.attr_name or option.name): option for option in CommandTask(command).get_arguments()}
    assert {"dry_run", "json", "verbose", "pin", "flavour", "hosts"} <= set(options)
    assert all(option.help for option in options.values())
    assert command.summary
    assert len(options) == len(command.declared()), "each option once"


def test_options_are_handed_on_and_the_document_is_printed(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = Command("run", "Run.", f"{target}:run", (Option("count", "How many.", 1),), REFUSES)
    CommandTask(command)(Context(), count=3, dry_run=True, json=True, verbose=False)
    assert json.loads(capsys.readouterr().out) == {"count": 3, "dry_run": True, "verbose": False}


def test_what_changes_nothing_is_not_told_of_a_dry_run_and_says_so(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command("look", "Look.", f"{target}:look", (), REFUSES, changes_nothing=True)
    task = CommandTask(command)
    assert (task.name, task.__doc__) == ("look", "Look.")
    assert any("changes nothing" in str(option.help) for option in task.get_arguments())
    task(Context(), dry_run=True, json=True, verbose=False)
    assert json.loads(capsys.readouterr().out) == {"seen": True}


def test_a_failure_is_its_exit_code(target: str) -> None:
    with pytest.raises(SystemExit) as ended:
        CommandTask(Command("fail", "Fail.", f"{target}:fail", (), REFUSES))(Context(), json=True)
    assert ended.value.code == 2


def test_an_option_that_a_command_refuses_is_exit_code_2_and_a_sentence(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        CommandTask(Command("run", "Run.", f"{target}:run", (), REFUSES))(Context(), pin="v0.11.0")
    assert ended.value.code == 2
    assert "run takes no --pin: it has none." in capsys.readouterr().err


def test_two_tasks_of_one_name_in_two_namespaces_are_two() -> None:
    tasks = [CommandTask(command) for command in COMMANDS if command.name.endswith(".verify")]
    assert len(tasks) == len(set(tasks)) == 2


def test_every_command_line_of_the_tasks_is_parsed_into_the_options_names() -> None:
    parser = Parser(contexts=collection(COMMANDS).to_contexts())
    (found,) = parser.parse_argv(["bench.dataset", "--per-group", "4", "--share", "0.5", "--dry-run"])
    assert found.name == "bench.dataset"
    assert {name: found.as_kwargs[name] for name in ("per_group", "share", "dry_run")} == {
        "per_group": 4,
        "share": 0.5,
        "dry_run": True,
    }


def test_a_namespace_alone_stands_for_its_default_command() -> None:
    names = collection(COMMANDS)
    assert [names[space].name for space in ("patch", "image", "deploy", "bench")] == [
        "apply",
        "make",
        "rollout",
        "measure",
    ]
