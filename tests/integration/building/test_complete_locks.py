"""Every lock of what goes into images and archives has all that its wheels require, for each Python it is for."""

from __future__ import annotations

import dataclasses
import io

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console

from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.releasing.standalone import TARGETS
from yrpd.reporting import Reporter
from yrpd.wheels.completeness import require_complete
from yrpd.wheels.locks import DEPLOY, every_lock, read_lock, stands_on_a_base
from yrpd.wheels.wheelhouse import Target, provide

PROJECT = Project.here()


@pytest.mark.parametrize("name", [name for name in every_lock(PROJECT.docker) if not stands_on_a_base(name)])
def test_a_lock_is_complete_and_would_not_be_without_what_it_is_made_for(name: str) -> None:
    reporter = Reporter()
    reporter.console = Console(file=io.StringIO())
    lock = read_lock(PROJECT.docker / f"{name}.lock")
    lines = (PROJECT.docker / f"{name}.in").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
    asked = canonicalize_name(wanted[0].name)
    less = dataclasses.replace(lock, entries=tuple(one for one in lock.entries if one.name != asked))
    for target in TARGETS if name == DEPLOY else (Target(),):
        wheels = provide(PROJECT, lock, reporter, target)
        platform = f"{target.machine}-manylinux_{target.glibc[0]}_{target.glibc[1]}"
        paths = {one.name: one.path for one in wheels}
        require_complete(lock, paths.values(), PROJECT.docker, python=target.python, platform=platform)
        del paths[asked]
        with pytest.raises(ConfigurationError, match=asked):
            require_complete(less, paths.values(), PROJECT.docker, python=target.python, platform=platform)
