"""Blocks that a document marks as `fresh` are followed in a fresh checkout: a missing step, or a wrong order, fails.

What needs an engine, a registry or hosts is rehearsed as far as this machine goes, and leaves behind what it would have
left: so each step finds what those before it make, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.documents.blocks import ROOT, Block, all_blocks, commands, documents
from tests.documents.judging import FRESH, Task, is_invoke, simple_commands, tasks_of
from yrpd import cli
from yrpd.building.npu_base import with_digest
from yrpd.errors import YrpdError
from yrpd.options import resolve
from yrpd.project import Project, write_json
from yrpd.release import load_release
from yrpd.reporting import Reporter
from yrpd.tasks.deploy import COMMANDS

FOLLOWED = [block for block in all_blocks(documents()) if FRESH in block.how]
PLAN = next(command for command in COMMANDS if command.name == "deploy.plan")
PARTS = ("release.toml", "hosts.toml", "lab.toml", "requirements.lock", "tasks.py")
FOLDERS = ("scripts", "docker", "patches", "connector_src")


class Missing(AssertionError):
    """A step finds that an earlier one is missing."""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A checkout in which nothing was done yet; downloads come from this one's cache."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in PARTS:
        shutil.copy2(ROOT / name, tmp_path / name)
    for variable in ("YRPD_PIN", "YRPD_FLAVOUR", "YRPD_HOSTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("YRPD_CACHE", str(Project(ROOT).cache))
    monkeypatch.chdir(tmp_path)
    release = tmp_path / "release.toml"
    release.write_text(unlocked(release.read_text(encoding="utf-8")), encoding="utf-8")
    return Project(tmp_path)


def unlocked(text: str) -> str:
    """Return release.toml as it is before the base's digest was asked for."""
    return with_digest(text, load_release(ROOT / "release.toml").release.default_pin, "", "")


def follow(block: Block, project: Project) -> list[str]:
    """Follow a block and return what was done.

    Raises:
        Missing: A step lacks what an earlier one should have made.
    """
    done = []
    for line in commands(block.text):
        for typed in simple_commands(line):
            if typed.program == "cp":
                subprocess.run(typed.words, cwd=project.root, check=True)
                done.append(" ".join(typed.words))
            elif is_invoke(typed):
                for task in tasks_of(list(typed.words[1:])):
                    step(task, project)
                    done.append(task.command.typed)
    return done


def step(task: Task, project: Project) -> None:
    """Do one task, or rehearse it and leave what it would."""
    name = task.command.name
    try:
        if name == "patch.apply":
            run(task, project, dry_run=False)
        elif name == "image.lock":
            values = resolve(task.command, task.given, {}, project)
            pin, _ = load_release(project.release_file).pin(values["pin"])
            text = project.release_file.read_text(encoding="utf-8")
            project.release_file.write_text(with_digest(text, pin, "sha256:" + "1" * 64, ""), encoding="utf-8")
        elif name == "image.make":
            leave_image(run(task, project, dry_run=True), task, project)
        elif name.startswith("deploy."):
            shared = {option: task.given.get(option, "") for option in ("hosts", "flavour", "pin")}
            cli.run(PLAN, {**shared, "dry_run": True}, project, Reporter(as_json=True))
        else:
            run(task, project, dry_run=True)
    except YrpdError as error:
        raise Missing(f"{task.command.typed}: {error}") from error


def run(task: Task, project: Project, *, dry_run: bool) -> dict[str, Any]:
    """Run a task; what stands in its way according to its dry run is missing."""
    document = cli.run(task.command, {**task.given, "dry_run": dry_run}, project, Reporter(as_json=True))
    for finding in document.get("findings", ()):
        raise Missing(f"{task.command.typed}: {finding['problem']}; {finding['fix']}")
    return document


def leave_image(planned: dict[str, Any], task: Task, project: Project) -> None:
    """Leave the record of the image that was planned."""
    values = resolve(task.command, task.given, {}, project)
    release = load_release(project.release_file)
    pin, wanted = release.pin(values["pin"])
    record = {"image": planned["image"], "id": "sha256:" + "2" * 64, "flavour": values["flavour"], "pin": pin}
    write_json(project.dist / release.image_record(values["flavour"], pin), {**record, "tree": wanted.tree})


@pytest.mark.parametrize("block", FOLLOWED, ids=lambda block: block.where)
def test_a_block_can_be_followed_from_a_fresh_checkout(block: Block, checkout: Project) -> None:
    done = follow(block, checkout)
    print(f"\n{block.where}: {json.dumps(done)}")
    assert "deploy" in done


def test_the_steps_for_ascend_hosts_are_among_them() -> None:
    assert {block.file for block in FOLLOWED} >= {"README.md", "README.zh.md", "docs/connector.md"}


@pytest.mark.parametrize(
    ("left_out", "why"),
    [
        ("image.lock", "image: release.toml has no digest"),
        ("patch", "build: There is no patched tree"),
        ("image", "There is no npu image yet"),
        ("cp hosts.toml my-hosts.toml", "my-hosts.toml does not exist"),
    ],
)
def test_a_missing_step_is_found(left_out: str, why: str, checkout: Project) -> None:
    steps = ["cp hosts.toml my-hosts.toml", "patch", "build", "image.lock", "image", "deploy --hosts my-hosts.toml"]
    lines = [step if step.startswith("cp") else f"invoke {step}" for step in steps if step != left_out]
    with pytest.raises(Missing, match=why):
        follow(Block("page.md", 1, "\n".join(lines)), checkout)
