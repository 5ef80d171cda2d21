"""The scripts that run inside Dockerfile.npu, run here on small real trees."""

from __future__ import annotations

import os
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from yrpd.project import Project

DOCKER = Project.here().docker
IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *IDENTITY, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Pinned:
    """A folder of an image, a series for it, and the trees that it must have before and after."""

    folder: Path
    series: Path
    pin_tree: str
    result_tree: str

    def apply(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script, with more environment."""
        command = ["sh", str(DOCKER / "apply_series.sh"), str(self.folder), str(self.series), self.pin_tree]
        return subprocess.run(
            [*command, self.result_tree], capture_output=True, text=True, check=False, env={**os.environ, **environment}
        )


@pytest.fixture
def pinned(tmp_path: Path) -> Pinned:
    """An image's folder at the pin, with a compiled file that git ignores, and a series of one patch."""
    work = tmp_path / "work"
    (work / "vllm_ascend").mkdir(parents=True)
    (work / ".gitignore").write_text("*.so\nkept.txt\n")
    (work / "vllm_ascend" / "a.py").write_text("one\n")
    (work / "run.sh").write_text("#!/bin/sh\n")
    (work / "run.sh").chmod(0o755)
    (work / "kept.txt").write_text("tracked although it is ignored\n")
    _git(work, "init", "-q")
    _git(work, "add", "-A", "-f")
    _git(work, "commit", "-qm", "pin")
    series = tmp_path / "series"
    series.mkdir()
    files = subprocess.run(["git", "ls-files", "-z"], cwd=work, check=True, capture_output=True).stdout
    (series / "files").write_bytes(files)
    (series / "index").write_text(_git(work, "ls-files", "-s") + "\n")
    folder = tmp_path / "image"
    subprocess.run(["cp", "-r", str(work), str(folder)], check=True)
    subprocess.run(["rm", "-rf", str(folder / ".git")], check=True)
    (folder / "vllm_ascend" / "kernel.so").write_bytes(b"compiled")
    (work / "vllm_ascend" / "a.py").write_text("two\n")
    _git(work, "commit", "-qam", "Change a")
    (series / "change-a.patch").write_text(_git(work, "format-patch", "--stdout", "-1", "--full-index") + "\n")
    (series / "series").write_text("# in order\n\nchange-a.patch\n")
    return Pinned(folder, series, _git(work, "rev-parse", "HEAD~1^{tree}"), _git(work, "rev-parse", "HEAD^{tree}"))


def test_the_series_is_applied_and_what_is_compiled_stays(pinned: Pinned) -> None:
    done = pinned.apply()
    assert done.returncode == 0, done.stderr
    assert f"tree {pinned.result_tree}" in done.stdout
    assert (pinned.folder / "vllm_ascend" / "a.py").read_text() == "two\n"
    assert (pinned.folder / "vllm_ascend" / "kernel.so").read_bytes() == b"compiled"
    assert not (pinned.folder / ".git").exists()


def test_a_base_that_is_not_the_pin_is_refused_and_the_file_named(pinned: Pinned) -> None:
    (pinned.folder / "run.sh").write_text("#!/bin/sh\nchanged\n")
    done = pinned.apply()
    assert done.returncode == 1
    assert f"expected tree {pinned.pin_tree}" in done.stderr
    assert "run.sh" in done.stderr
    assert (pinned.folder / "vllm_ascend" / "a.py").read_text() == "one\n"


def test_a_result_that_is_not_the_recorded_tree_is_refused(pinned: Pinned) -> None:
    done = Pinned(pinned.folder, pinned.series, pinned.pin_tree, "0" * 40).apply()
    assert done.returncode == 1
    assert f"found {pinned.result_tree}" in done.stderr


def test_a_patch_that_does_not_apply_fails_the_build(pinned: Pinned) -> None:
    patch = pinned.series / "change-a.patch"
    patch.write_text(patch.read_text().replace("-one", "-other"))
    assert pinned.apply().returncode != 0


def test_git_configuration_of_the_image_changes_nothing(pinned: Pinned, tmp_path: Path) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "applypatch-msg").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "applypatch-msg").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f"[core]\n\tautocrlf = true\n\thooksPath = {hooks}\n[commit]\n\tgpgsign = true\n")
    done = pinned.apply(HOME=str(home), XDG_CONFIG_HOME=str(home))
    assert done.returncode == 0, done.stderr


SETUP = """
import os
from setuptools import setup
setup(name="vllm_ascend", version=os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"], packages=["vllm_ascend"])
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment as the published image has it: Python's own setuptools, and wheel, which pip builds with."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python3"
    setuptools = "import setuptools; assert int(setuptools.__version__.split('.')[0]) < 80, setuptools.__version__"
    subprocess.run([python, "-c", setuptools], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "wheel==0.45.1"], check=True)
    return folder / "bin"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a package that has a compiled kernel and says what it was built for."""
    folder = tmp_path / "vllm-ascend"
    package = folder / "vllm_ascend"
    package.mkdir(parents=True)
    (folder / "setup.py").write_text(SETUP)
    (folder / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools>=64", "wheel"]\n')
    (package / "__init__.py").write_text("")
    (package / "kernel.so").write_bytes(b"compiled")
    (package / "_build_info.py").write_text("__sleep_mode_enabled__ = True\n")
    return folder


def _rebuild(python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{python}:{os.environ['PATH']}", "PYTHONPATH": ""}
    command = ["sh", str(DOCKER / "rebuild.sh"), str(folder), "0.10.0rc1+yuanrong.1", "ASCEND910B1", "keep"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _installed(python: Path) -> str:
    """Return the version and the place of vllm_ascend, as another process in another folder sees them."""
    ask = "import importlib.metadata as m, vllm_ascend as v; print(m.version('vllm_ascend'), v.__file__)"
    command = [str(python / "python3"), "-c", ask]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip()


def test_the_rebuild_keeps_kernels_and_what_they_were_built_for(python: Path, package: Path) -> None:
    done = _rebuild(python, package)
    assert done.returncode == 0, done.stderr
    assert "rebuild: setup.py develop" in done.stdout
    assert "kept 1 compiled files" in done.stdout
    assert "True" in (package / "vllm_ascend" / "_build_info.py").read_text()
    assert _installed(python) == f"0.10.0rc1+yuanrong.1 {package}/vllm_ascend/__init__.py"


def test_it_takes_the_place_of_an_editable_installation_by_pip(python: Path, package: Path) -> None:
    # As vllm-ascend's own Dockerfiles do it; the published image has what that leaves behind.
    command = [str(python / "python3"), "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", "."]
    environment = {**os.environ, "SETUPTOOLS_SCM_PRETEND_VERSION": "0.10.0rc1"}
    subprocess.run(command, cwd=package, check=True, env=environment)
    assert _installed(python) == f"0.10.0rc1 {package}/vllm_ascend/__init__.py"
    done = _rebuild(python, package)
    assert done.returncode == 0, done.stderr
    assert "kept 1 compiled files" in done.stdout
    assert _installed(python) == f"0.10.0rc1+yuanrong.1 {package}/vllm_ascend/__init__.py"
