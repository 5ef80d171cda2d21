"""The README's first steps do the same against the package index of next year."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.integration.front_door.conftest import PIPS, Machine, Machines, locked_files
from tests.integration.front_door.next_year import NEWER, NextYear

MAKE_VENV = "source scripts/setup.sh; make_venv"
FIRST_STEPS = f"{MAKE_VENV}; .venv/bin/invoke patch build"


def _require_only_locked(index: NextYear) -> None:
    strangers = sorted(one.name for one in index.asked.values() if one.sha256 not in locked_files())
    assert index.asked, "nothing was asked of the index, so the test shows nothing"
    assert strangers == []


def _old_line(machine: Machine) -> None:
    """Let the clone install its lock as it did before: pip may look whether a requirement needs something."""
    script = machine.clone / "scripts" / "setup.sh"
    text = script.read_text(encoding="utf-8")
    with_uv = 'if ! install_with_uv "$1" "$2" && !'
    assert with_uv in text
    assert text.count("--no-deps --only-binary :all:") == 2
    text = text.replace(with_uv, "if !").replace("--no-deps --only-binary :all:", "")
    script.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("next_year", "pip"), [("newer", "23.0.1"), ("only_locked", "23.2.1")])
def test_the_first_steps_do_not_see_what_was_published_since(
    next_year: str, pip: str, machines: Machines, request: pytest.FixtureRequest
) -> None:
    index: NextYear = request.getfixturevalue(next_year)
    with index.served() as url:
        machine = machines.fresh(url, pip)
        done = machine.run(FIRST_STEPS)
    assert done.returncode == 0, done.stdout
    version = machine.run(".venv/bin/python -m pip --version").stdout
    assert version.startswith(f"pip {pip} "), version
    (state,) = machine.clone.glob("build/*/state.json")
    assert "build-cpu" in json.loads(state.read_text(encoding="utf-8"))
    _require_only_locked(index)


@pytest.mark.parametrize("pip", sorted(PIPS))
def test_with_the_old_line_a_newer_version_shuts_the_door(pip: str, machines: Machines, newer: NextYear) -> None:
    with newer.served() as url:
        machine = machines.fresh(url, pip)
        _old_line(machine)
        done = machine.run(MAKE_VENV)
    assert done.returncode == 8, done.stdout
    assert "all requirements must have their versions pinned with ==" in done.stdout
    assert re.search(rf"coverage\[toml\].* from http://127\.0\.0\.1\S+-{re.escape(NEWER)}-", done.stdout), done.stdout
    assert not (machine.clone / ".venv" / "requirements.sha256").exists()


def test_what_no_lock_names_cannot_be_installed_from_what_is_left(
    machines: Machines, only_locked: NextYear, tmp_path: Path
) -> None:
    with only_locked.served() as url:
        machine = machines.fresh(url, "23.0.1")
        # It is in a lock, but not in this version.
        done = machine.run("python3.11 -m venv made; made/bin/python -m pip install --no-deps 'pytest<9'")
    assert done.returncode != 0
    assert "No matching distribution found for pytest<9" in done.stdout
    assert only_locked.asked == {}


def test_mutation_testing_has_a_lock_too(machines: Machines, newer: NextYear) -> None:
    with newer.served() as url:
        machine = machines.fresh(url, "23.0.1")
        done = machine.run("source scripts/setup.sh; install_lock made scripts/mutation.lock; test -x made/bin/mutmut")
    assert done.returncode == 0, done.stdout
    _require_only_locked(newer)
