"""Stages beside each other: what they print does not mix, and each has its own clock, processor time and end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suite.__main__ import Suite
from tests.suite.stages import Form, Mode, Planned, Runner, Stage, in_turn
from yrpd.project import Project


def commands(name: str, *words: str, lane: str = "", pin: str = "") -> Planned:
    form = Form(frozenset({Mode.ALL}), 1)
    return Planned(Stage(name, name, Runner.COMMAND, (form,), pin=pin, commands=(words,), lane=lane), form)


def test_lanes_print_one_stage_after_the_other(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    # Neither ends before the other has begun.
    (tmp_path / "met").mkdir()
    meet = "touch met/{0}; until [ -e met/{1} ]; do :; done; echo {0} 1; echo {0} 2 >&2"
    lanes = (
        commands("a", "sh", "-c", f"cd {tmp_path}; {meet.format('a', 'b')}", lane="x"),
        commands("b", "sh", "-c", f"cd {tmp_path}; {meet.format('b', 'a')}; exit 3", lane="y"),
    )
    (turn,) = in_turn(lanes)
    results = Suite(Project(tmp_path), (), 2).run(turn)
    assert [(each.name, each.code) for each in results] == [("a", 0), ("b", 3)]
    assert all(each.busy > 0 for each in results)
    printed = capfdbinary.readouterr().out.decode()
    assert "a 1\na 2\n" in printed
    assert "b 1\nb 2\n" in printed
    assert printed.index("<== ") > printed.index("==> [2/2]")


def test_what_a_stage_prints_alone_is_not_held_back(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (turn,) = in_turn((commands("a", "sh", "-c", "echo seen"),))
    Suite(Project(tmp_path), (), 1).run(turn)
    assert capfdbinary.readouterr().out.endswith(b"a: a\nseen\n")


def test_stages_of_a_pin_whose_build_failed_are_not_run(tmp_path: Path) -> None:
    suite = Suite(Project(tmp_path), (), 2)
    first, second = in_turn((commands("build", "false", pin="v1"), commands("after", "true", pin="v1", lane="x")))
    assert suite.run(first)[0].code == 1
    assert suite.run(second)[0].reason == "invoke patch build --pin v1 failed"
