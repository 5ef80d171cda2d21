"""``deploy.pyz`` carries the modules that its commands can reach, and no other."""

from __future__ import annotations

import grimp

from yrpd.project import Project
from yrpd.releasing.standalone import sources
from yrpd.tasks.deploy import COMMANDS

# Read as a file, and run on the hosts.
SENT = {"yrpd/deploying/preflight/survey_program.py"}


def _reached(starts: set[str]) -> set[str]:
    """Modules that are imported by some, directly or not, with the packages that they are in."""
    graph = grimp.build_graph("yrpd")
    reached: set[str] = set()
    while starts:
        reached |= starts
        packages = {one.rpartition(".")[0] for one in starts} - {""}
        imported = {name for one in starts for name in graph.find_modules_directly_imported_by(one)}
        starts = (packages | imported) - reached
    return reached


def test_it_carries_what_its_commands_reach_and_nothing_else() -> None:
    reached = _reached({"yrpd.commands.front", *(one.target.partition(":")[0] for one in COMMANDS)})
    package = Project.here().code
    files = set()
    for name in reached:
        path = package.joinpath(*name.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        files.add(f"yrpd/{file.relative_to(package).as_posix()}")
    assert set(sources(Project.here())) == files | SENT
