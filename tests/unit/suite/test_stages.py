"""Which stages a mode runs, what is left out, and how a run ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suite.results import Result, counts, summary
from tests.suite.stages import Mode, Need, Runner, announcement, in_turn, plan, stages
from tests.suite.stages import minutes as length
from yrpd.project import Project

EVERY = stages("v1", ["v2"])
ROOT = Project.here().root


def names(mode: Mode) -> list[str]:
    return [each.stage.name for each in plan(EVERY, mode, {})]


def test_the_short_mode_is_a_part_of_all() -> None:
    assert set(names(Mode.SHORT)) < set(names(Mode.ALL))


def test_all_and_full_run_the_same_stages() -> None:
    assert names(Mode.ALL) == names(Mode.FULL)


def test_the_short_mode_needs_neither_docker_nor_root() -> None:
    needs = {need for each in plan(EVERY, Mode.SHORT, {}) for need in each.stage.needs | each.form.needs}
    assert needs == {Need.LIBRARIES}


@pytest.mark.parametrize(("mode", "minutes"), [(Mode.UNIT, 1), (Mode.SHORT, 15), (Mode.ALL, 60)])
def test_what_is_said_of_a_modes_length_is_what_was_promised(mode: Mode, minutes: float) -> None:
    assert length(plan(EVERY, mode, {})) <= minutes


def test_every_test_of_the_project_belongs_to_a_stage_of_all() -> None:
    given = [word for each in plan(EVERY, Mode.ALL, {}) for word in each.form.arguments]
    covered = [ROOT / word for word in given if not word.startswith("-")]
    files = [*(ROOT / "tests").rglob("test_*.py")]
    assert files
    assert [file for file in files if not any(file == one or one in file.parents for one in covered)] == []


def test_what_one_stage_leaves_out_is_run_by_another() -> None:
    forms = [each.form.arguments for each in plan(EVERY, Mode.ALL, {})]
    ignored = {word.partition("=")[2] for form in forms for word in form if word.startswith("--ignore=")}
    assert ignored

    def runs(form: tuple[str, ...], one: str) -> bool:
        return f"--ignore={one}" not in form and any(one == word or one.startswith(f"{word}/") for word in form)

    assert {one for one in ignored if not any(runs(form, one) for form in forms)} == set()


def test_what_the_machine_lacks_leaves_out_just_what_needs_it_and_says_why() -> None:
    planned = plan(EVERY, Mode.ALL, {Need.DOCKER: "no engine; next: apt-get install docker.io"})
    left_out = [each.stage.name for each in planned if each.lacking]
    assert left_out == [each.stage.name for each in planned if Need.DOCKER in each.stage.needs | each.form.needs]
    said = announcement(Mode.ALL, planned)
    assert "not run: no engine; next: apt-get install docker.io" in said
    assert f"{len(planned) - len(left_out)} of {len(planned)} stages" in said.splitlines()[0]


def test_an_announcement_names_every_stage_with_its_minutes() -> None:
    planned = plan(EVERY, Mode.SHORT, {})
    lines = announcement(Mode.SHORT, planned).splitlines()[1:]
    assert [line.split()[0] for line in lines] == names(Mode.SHORT)
    assert all(" min  " in line for line in lines)


def test_counts_are_added_up_in_the_last_line() -> None:
    results = [Result("a", 0, 1.0, 1.5, 3, 0, 1), Result("b", 1, 2.0, 2.0, 4, 2, 0), Result("c", reason="no Docker")]
    text = summary(results, 2.5)
    assert text.splitlines()[-1] == "7 passed, 2 failed, 1 skipped"
    assert "not run  c" in text


def test_a_command_that_fails_is_counted_though_it_has_no_tests() -> None:
    assert (
        summary([Result("style", 1), Result("unit", 0, 1.0, 1.0, 5)], 2.0).splitlines()[-1]
        == "5 passed, 1 failed, 0 skipped"
    )


def test_a_stage_in_which_an_option_selects_nothing_is_no_failure() -> None:
    assert Result("unit", 5).is_good
    assert not Result("unit", 2).is_good


def test_counts_come_from_pytests_own_file(tmp_path: Path) -> None:
    file = tmp_path / "one.xml"
    file.write_text(
        '<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/></testsuites>', encoding="utf-8"
    )
    assert counts(file) == (3, 3, 3)
    assert counts(tmp_path / "none.xml") == (0, 0, 0)


def test_stages_of_one_pin_follow_its_build() -> None:
    built = set[str]()
    for each in plan(EVERY, Mode.ALL, {}):
        if each.stage.runner is Runner.COMMAND:
            built.add(each.stage.pin)
        elif each.stage.pin:
            assert each.stage.pin in built


def test_lanes_run_beside_each_other_and_keep_their_order_and_nothing_else_does() -> None:
    planned = plan(EVERY, Mode.ALL, {})
    turns = in_turn(planned)
    flat = [each for turn in turns for lane in turn for each in lane]
    assert sorted(each.stage.name for each in flat) == sorted(each.stage.name for each in planned)
    assert [len(turn) for turn in turns if len(turn) > 1] == [2]
    for turn in turns:
        for lane in turn:
            numbers = [planned.index(each) for each in lane]
            assert numbers == sorted(numbers)
            assert len({each.stage.lane for each in lane}) == 1
        assert len(turn) > 1 or len(turn[0]) == 1
    assert length(planned) < sum(each.form.minutes for each in planned)


def test_a_stage_that_is_named_runs_after_the_build_of_its_pin_and_alone() -> None:
    assert [each.stage.name for each in plan(EVERY, Mode.ALL, {}, ["connector-v2"])] == ["build-v2", "connector-v2"]
    assert [each.stage.name for each in plan(EVERY, Mode.ALL, {}, ["unit"])] == ["unit"]
