"""The command line of ``deploy.pyz``: next commands are typed where there is no Invoke."""

from __future__ import annotations

from pathlib import Path

import pytest

from yrpd.cli import run
from yrpd.commands.front import actions, parse, without_invoke
from yrpd.errors import ImageError
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.tasks.deploy import COMMANDS

PROGRAM = "python3 deploy.pyz"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("invoke deploy.logs --flavour cpu --hosts h.toml", f"{PROGRAM} logs --hosts h.toml"),
        ("invoke deploy --hosts hosts.toml", f"{PROGRAM} deploy --hosts hosts.toml"),
        ("invoke deploy.status", f"{PROGRAM} status"),
        ("invoke image.save", "invoke image.save  # in the checkout that made this release"),
        ("docker -H unix:///x info", "docker -H unix:///x info"),
        ("", ""),
    ],
)
def test_a_next_command_is_one_that_can_be_typed_on_a_host_without_a_checkout(text: str, typed: str) -> None:
    assert without_invoke(text, PROGRAM) == typed


def test_the_command_is_deploy_unless_another_is_named_and_options_may_come_first() -> None:
    command, given = parse(PROGRAM, ["--hosts", "h.toml", "--dry-run"])
    assert (command.name, given) == ("deploy.rollout", {"hosts": "h.toml", "dry_run": True})
    command, given = parse(PROGRAM, ["--tail", "7", "logs"])
    assert (command.name, given) == ("deploy.logs", {"tail": 7})


def test_it_has_the_commands_and_options_of_invoke_but_for_flavour_and_pin() -> None:
    found = actions()
    assert list(found) == ["deploy", "plan", "status", "logs", "verify", "rollback", "unlock", "clean"]
    for command, invoked in zip(found.values(), COMMANDS, strict=True):
        expected = [one.name for one in invoked.options if one.name not in ("flavour", "pin")]
        assert [one.name for one in command.options] == expected


def test_an_option_of_another_command_is_refused_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(PROGRAM, ["status", "--save", "x.tgz"])
    assert ended.value.code == 2
    assert "status takes no --save; logs does" in capsys.readouterr().err


def test_a_release_folder_has_one_flavour_and_one_pin(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(PROGRAM, ["plan", "--flavour", "cpu"])
    assert "unrecognized arguments: --flavour" in capsys.readouterr().err


def test_nothing_is_written_into_a_release_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    project = Project(tmp_path / "work", released=tmp_path / "release")
    assert {project.build, project.dist} == {tmp_path / "state" / "yrpd"}


def test_a_release_folder_runs_a_command_with_its_own_flavour_and_pin(tmp_path: Path) -> None:
    (tmp_path / "hosts.toml").write_bytes((Project.here().root / "hosts.toml").read_bytes())
    project = Project(tmp_path, released=tmp_path / "release")
    with pytest.raises(ImageError, match=r"manifest\.json"):
        run(actions()["plan"], {}, project, Reporter())
