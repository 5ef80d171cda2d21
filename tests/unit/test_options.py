"""An option is what was typed, else its variable, else its default: once, for every command and every front."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workshop.tasks import COMMANDS as WORKSHOP
from yrpd.errors import ConfigurationError
from yrpd.options import FLAVOUR, HOSTS, LAB_HOSTS, PIN, SHARED, Command, Option, find_hosts_file, resolve
from yrpd.project import Project
from yrpd.tasks.declaring import COMMANDS as PRODUCT

COMMANDS = (*PRODUCT, *WORKSHOP)

HERE = Project.here()
ALL = Command("all", "Take all.", "module:function", (FLAVOUR, PIN, HOSTS, Option("count", "How many.", 3)))
NONE = Command(
    "some.none",
    "Take none.",
    "module:function",
    refuses={option.name: f"no {option.name} is used" for option in SHARED},
)


def test_without_anything_said_the_defaults_hold() -> None:
    found = resolve(ALL, {}, {}, HERE)
    assert found == {
        "flavour": "npu",
        "pin": "",
        "hosts_file": find_hosts_file("hosts.toml", "npu", HERE.root),
        "count": 3,
        "dry_run": False,
    }


@pytest.mark.parametrize("option", SHARED, ids=lambda option: option.name)
def test_what_is_typed_wins_over_the_variable_and_that_over_the_default(option: Option) -> None:
    typed, variable = {"flavour": ("cpu", "npu"), "pin": ("v0.11.0", "v0.10.0rc1"), "hosts": ("/a", "/b")}[option.name]
    name = option.parameter or option.name
    environment = {option.variable: variable}
    assert str(resolve(ALL, {option.name: typed}, environment, HERE)[name]) == typed
    assert str(resolve(ALL, {option.name: ""}, environment, HERE)[name]) == variable
    assert str(resolve(ALL, {}, {option.variable: ""}, HERE)[name]) == str(resolve(ALL, {}, {}, HERE)[name])


def test_an_option_may_be_zero() -> None:
    assert resolve(ALL, {"count": 0}, {}, HERE)["count"] == 0


@given(st.text(min_size=1).filter(lambda text: text not in FLAVOUR.choices))
def test_nothing_but_the_two_flavours_is_one(text: str) -> None:
    with pytest.raises(ConfigurationError, match="there are: npu, cpu"):
        resolve(ALL, {"flavour": text}, {}, HERE)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="YRPD_FLAVOUR"):
        resolve(ALL, {}, {"YRPD_FLAVOUR": "gpu"}, HERE)


@pytest.mark.parametrize(("typed", "environment"), [({"pin": "v9"}, {}), ({}, {"YRPD_PIN": "v9"})])
def test_a_pin_that_is_none_is_refused_before_anything_is_done(
    typed: dict[str, str], environment: dict[str, str]
) -> None:
    with pytest.raises(ConfigurationError, match="has no pin 'v9'"):
        resolve(ALL, typed, environment, HERE)


@pytest.mark.parametrize("option", SHARED, ids=lambda option: option.name)
def test_an_option_that_a_command_has_no_use_for_is_refused_with_the_reason(option: Option) -> None:
    with pytest.raises(ConfigurationError, match=f"some.none takes no --{option.name}: no {option.name} is used"):
        resolve(NONE, {option.name: "x"}, {}, HERE)


def test_the_variables_mean_nothing_to_a_command_that_has_no_use_for_them() -> None:
    assert resolve(NONE, {}, {option.variable: "x" for option in SHARED}, HERE) == {"dry_run": False}


def test_the_inventory_follows_the_flavour() -> None:
    assert resolve(ALL, {"flavour": "cpu"}, {}, HERE)["hosts_file"].name == "lab.toml"
    assert resolve(ALL, {}, {"YRPD_FLAVOUR": "cpu"}, HERE)["hosts_file"].name == "lab.toml"
    assert resolve(ALL, {}, {}, HERE)["hosts_file"].name == "hosts.toml"


def test_a_labs_inventory_is_lab_toml_whatever_the_flavour_and_the_variable_names_another() -> None:
    up = Command("lab.up", "Up.", "module:function", (LAB_HOSTS,))
    assert resolve(up, {}, {}, HERE)["hosts_file"].name == "lab.toml"
    assert resolve(up, {}, {"YRPD_HOSTS": "/my.toml"}, HERE)["hosts_file"] == Path("/my.toml")


def test_a_relative_inventory_is_seen_from_here_first_and_from_the_project_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, here = tmp_path / "root", tmp_path / "here"
    root.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    (root / "mine.toml").touch()
    assert find_hosts_file("mine.toml", "npu", root) == root / "mine.toml"
    (here / "mine.toml").touch()
    assert find_hosts_file("mine.toml", "npu", root).resolve() == here / "mine.toml"
    assert find_hosts_file("none.toml", "npu", root) == root / "none.toml"
    assert find_hosts_file("/elsewhere.toml", "npu", root) == Path("/elsewhere.toml")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_takes_or_refuses_each_shared_option_and_not_both(command: Command) -> None:
    taken = {option.name for option in command.options}
    for option in SHARED:
        assert (option.name in taken) != (option.name in command.refuses), option.name


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_commands_function_takes_what_its_options_name_and_nothing_else_is_required(command: Command) -> None:
    module, _, name = command.target.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    passed = {"project": HERE, "reporter": None, **resolve(command, {}, {}, HERE)}
    inspect.signature(function).bind(**passed)
    dry_run = inspect.signature(function).parameters.get("dry_run")
    assert (dry_run is None) == command.changes_nothing


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_an_option_and_its_functions_default_are_the_same(command: Command) -> None:
    module, _, name = command.target.partition(":")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    for option in (one for one in command.options if not one.variable):
        known = parameters.get(option.parameter or option.name)
        if known is not None and known.default is not inspect.Parameter.empty and known.default != "":
            assert known.default == option.default, option.name
