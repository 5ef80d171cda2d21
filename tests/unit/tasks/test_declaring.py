"""Every task takes the same options, explains each, and hands on what it was given."""

from __future__ import annotations

import json
from typing import Any

import pytest
from invoke import Collection, Context
from invoke.tasks import Task
from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.tasks import bench, deploy, image, lab, patch
from yrpd.tasks.declaring import command

TASKS = [
    value for module in (bench, deploy, image, lab, patch) for value in vars(module).values() if isinstance(value, Task)
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.body.__name__}")
def test_every_option_is_explained_and_every_task_has_the_common_ones(task: Task[Any]) -> None:
    options = {str(option.name).replace("-", "_"): option for option in task.get_arguments()}
    assert {"dry_run", "json", "verbose"} <= set(options)
    assert all(option.help for option in options.values())
    assert task.__doc__


def test_options_are_handed_on_and_the_document_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    @command(count="How many.")
    def run(project: Project, reporter: Reporter, count: int = 1, dry_run: bool = False) -> dict[str, Any]:
        return {"count": count, "dry_run": dry_run, "verbose": reporter.verbose}

    run(Context(), count=3, dry_run=True, json=True, verbose=False)
    assert json.loads(capsys.readouterr().out) == {"count": 3, "dry_run": True, "verbose": False}


def test_what_changes_nothing_is_not_told_of_a_rehearsal(capsys: pytest.CaptureFixture[str]) -> None:
    @command("look")
    def run(project: Project, reporter: Reporter) -> dict[str, Any]:
        """Look."""
        return {"seen": True}

    assert (run.name, run.__doc__) == ("look", "Look.")
    assert list(Collection(run).task_names) == ["look"]
    run(Context(), dry_run=True, json=True, verbose=False)
    assert json.loads(capsys.readouterr().out) == {"seen": True}


def test_a_failure_is_its_exit_code() -> None:
    @command()
    def run(project: Project, reporter: Reporter) -> dict[str, Any]:
        raise ConfigurationError("Nothing is right.")

    with pytest.raises(SystemExit) as ended:
        run(Context(), dry_run=False, json=True, verbose=False)
    assert ended.value.code == 2


def test_an_option_that_nobody_explains_is_an_error() -> None:
    with pytest.raises(KeyError, match="mystery"):

        @command()
        def run(project: Project, reporter: Reporter, mystery: str = "") -> dict[str, Any]:
            return {}
