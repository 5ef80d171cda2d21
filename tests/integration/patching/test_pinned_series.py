"""The series of this project on the real vllm-ascend tree. The download is kept in the project's cache."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from yrpd.documents.series import load_lock
from yrpd.patching import commands
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter

HERE = Project(Path(__file__).resolve().parents[3])
RELEASE = load_release(HERE.release_file)
PINS = sorted(pin for pin in RELEASE.upstream if (HERE.patches(pin) / "series").exists())


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """This checkout's inputs in a folder of their own."""
    monkeypatch.setenv("YRPD_CACHE", str(HERE.cache))
    shutil.copy(HERE.release_file, tmp_path)
    shutil.copytree(HERE.root / "patches", tmp_path / "patches")
    shutil.copytree(HERE.root / "connector_src", tmp_path / "connector_src")
    return Project(tmp_path)


@pytest.mark.parametrize("pin", PINS)
def test_the_series_applies_to_the_pinned_tree_and_arrives_at_the_locks_ids(copy: Project, pin: str) -> None:
    document = commands.patch(project=copy, reporter=Reporter(), pin=pin)
    lock = load_lock(HERE.patches(pin))
    assert (document["tree"], document["commit"]) == (lock.end.tree, lock.end.commit)
    assert document["base_tree"] == RELEASE.upstream[pin].tree
    assert commands.patch(project=copy, reporter=Reporter(), pin=pin)["state"] == "unchanged"


@pytest.mark.parametrize("pin", PINS)
def test_the_series_is_exactly_what_export_would_write(copy: Project, pin: str) -> None:
    assert commands.check(project=copy, reporter=Reporter(), pin=pin)["passed"]
    assert commands.export(project=copy, reporter=Reporter(), pin=pin)["state"] == "unchanged"


@pytest.mark.parametrize("pin", PINS)
def test_the_connector_is_registered_by_name_without_being_imported(copy: Project, pin: str) -> None:
    document = commands.patch(project=copy, reporter=Reporter(), pin=pin)
    tree = copy.root / document["worktree"]
    module = ast.parse((tree / "vllm_ascend/distributed/__init__.py").read_text(encoding="utf-8"))
    calls = [
        tuple(argument.value for argument in node.args if isinstance(argument, ast.Constant))
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "KVConnectorFactory.register_connector"
    ]
    assert ("YuanRongConnector", "vllm_ascend.distributed.yuanrong", "YuanRongConnector") in calls
    imports = [ast.unparse(node) for node in ast.walk(module) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [line for line in imports if "yuanrong" in line]
    for source in HERE.connector_source.rglob("*.py"):
        relative = source.relative_to(HERE.connector_source)
        assert (tree / "vllm_ascend/distributed/yuanrong" / relative).read_bytes() == source.read_bytes()


def test_one_export_takes_the_connector_into_every_pins_series(copy: Project) -> None:
    with (copy.connector_source / "keys.py").open("a", encoding="utf-8") as stream:
        stream.write("# edited\n")
    document = commands.export(project=copy, reporter=Reporter())
    assert {each["pin"] for each in (document, *document["others"])} == set(PINS)
    assert len(PINS) > 1
    for pin in PINS:
        assert commands.check(project=copy, reporter=Reporter(), pin=pin)["passed"]
