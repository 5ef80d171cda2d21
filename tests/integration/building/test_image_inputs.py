"""What an image's digest depends on: serving/, docker/, the locks and the series, and no other file of the project."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.patching.conftest import git
from yrpd.building.cpu_image import plan_stack
from yrpd.building.debian import Root
from yrpd.building.npu_image import plan_layer
from yrpd.building.openyuanrong import OpenYuanrong
from yrpd.building.runtime import Locks
from yrpd.documents.patched import Patched
from yrpd.documents.series import load_series
from yrpd.project import Project
from yrpd.release import load_release

HERE = Project.here()
INPUTS = ("scripts/yrpd/serving/", "docker/", "patches/", "release.toml")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Patched:
    """A small patched tree."""
    folder = tmp_path_factory.mktemp("tree")
    (folder / "setup.py").write_text("print('setup')\n", encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=A", "-c", "user.email=a@x.invalid", "commit", "--quiet", "--message=all")
    commit, files = git(folder, "rev-parse", "HEAD").strip(), git(folder, "rev-parse", "HEAD^{tree}").strip()
    release = load_release(HERE.release_file)
    name, pin = release.pin()
    pin = pin.model_copy(update={"tree": files})
    patches = load_series(HERE.patches(name)).names
    return Patched(name, pin, folder, release.patched_version(name), commit, files, "d" * 64, patches, ())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout's files."""
    listed = subprocess.run(
        ["git", "-C", str(HERE.root), "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (HERE.root / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HERE.root / name, tmp_path / name)
    return tmp_path


def digests(checkout: Path, patched: Patched) -> tuple[str, str]:
    """Return the digests of the cpu image and of the npu image."""
    project = replace(HERE, root=checkout)
    release = load_release(project.release_file)
    yuanrong = OpenYuanrong.of(project)
    locks = Locks.of(project, release.flavour(patched.name, "cpu").runtime)
    stack = plan_stack(project, release, patched, locks, yuanrong, Root(checkout / "none", "bookworm", "a" * 64, ()))
    return stack.final.digest, plan_layer(project, release, patched, yuanrong, "sha256:" + "b" * 64).digest


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def test_no_other_file_of_the_project_changes_an_image(checkout: Path, tree: Patched) -> None:
    before = digests(checkout, tree)
    edited = 0
    for path in checkout.rglob("*"):
        if path.is_file() and not path.relative_to(checkout).as_posix().startswith(INPUTS):
            edit(path)
            edited += 1
    assert edited > 500
    assert digests(checkout, tree) == before


@pytest.mark.parametrize(
    "name", ["scripts/yrpd/serving/worker.py", "docker/import_connector.py", "docker/endpoint.lock"]
)
def test_each_of_those_does(checkout: Path, tree: Patched, name: str) -> None:
    before = digests(checkout, tree)
    edit(checkout / name)
    after = digests(checkout, tree)
    assert after[0] != before[0]
    assert after[1] != before[1]
