"""Every lock of what goes into images and archives has all that its wheels require, for each Python it is for."""

from __future__ import annotations

import io

import pytest
from packaging.utils import canonicalize_name
from rich.console import Console

from yrpd.project import Project
from yrpd.releasing.standalone import TARGETS
from yrpd.reporting import Reporter
from yrpd.wheels.completeness import gaps, marker_environment, read_requirements, stated_by_wheel
from yrpd.wheels.locks import DEPLOY, NPU, every_lock, read_lock
from yrpd.wheels.wheelhouse import IMAGE, provide_each

PROJECT = Project.here()


@pytest.mark.parametrize("name", [name for name in every_lock(PROJECT.docker) if name != NPU])
def test_a_lock_is_complete_and_would_not_be_without_what_it_is_made_for(name: str) -> None:
    reporter = Reporter()
    reporter.console = Console(file=io.StringIO())
    targets = TARGETS if name == DEPLOY else (IMAGE,)
    wanted, overrides = (read_requirements(PROJECT.docker / f"{name}.{end}") for end in ("in", "overrides"))
    every = provide_each(PROJECT, read_lock(PROJECT.docker / f"{name}.lock"), reporter, targets)
    for target, wheels in every.items():
        locked = [stated_by_wheel(one.path) for one in wheels]
        environment = marker_environment(target.machine, target.python)
        assert gaps(locked, environment, wanted=wanted, overrides=overrides) == [], target
        asked = canonicalize_name(wanted[0].name)
        assert gaps([one for one in locked if one.name != asked], environment, wanted=wanted, overrides=overrides)
