"""What a document tells to type, and needs no engine and no patched tree, is dry-run as it stands there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.documents.blocks import ROOT, all_blocks, commands, documents
from tests.documents.judging import HARDWARE, Task, is_invoke, simple_commands, tasks_of
from yrpd import cli
from yrpd.project import Project
from yrpd.reporting import Reporter

ALONE = ("bench.measure", "bench.dataset", "patch.check", "patch.export", "lab.faults")


def typed() -> dict[str, Task]:
    """Return the tasks of all documents, each once, by what is typed."""
    found = {}
    for block in all_blocks(documents()):
        if "[" in block.text or HARDWARE in block.how:
            continue
        for line in [block.text] if block.inline else commands(block.text):
            for one in simple_commands(line):
                if is_invoke(one) and not any(word.startswith("<") or "*" in word for word in one.words):
                    for task in tasks_of(list(one.words[1:]), names=block.inline):
                        found[f"{task.command.name} {sorted(task.given.items())}"] = task
    return found


def test_a_dry_run_of_every_line_that_needs_nothing_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy: other tests that run meanwhile make files in this checkout.
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "*_cache"))
    monkeypatch.chdir(checkout)
    project = Project(checkout)
    before = snapshot(project)
    tasks = [task for task in typed().values() if task.command.name in ALONE]
    assert {task.command.name for task in tasks} >= set(ALONE)
    for task in tasks:
        if not task.command.changes_nothing:
            task.given["dry_run"] = True
        cli.run(task.command, task.given, project, Reporter(as_json=True))
        assert snapshot(project) == before, task.command.name


def snapshot(project: Project) -> set[str]:
    """Return the names of what tasks leave in a checkout."""
    places = [project.build, project.build / "bench", *project.build.glob("v*"), project.dist, project.root / "docs"]
    return {f"{place}/{name}" for place in places if place.is_dir() for name in os.listdir(place)}
