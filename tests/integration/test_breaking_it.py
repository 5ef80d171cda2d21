"""Broken on purpose, at the command line: the exit code, one clear sentence, the next command, nothing half done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from yrpd.project import Project

INVOKE = str(Path(sys.executable).parent / "invoke")
HERE = Project.here()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout's own files, without anything that was built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=HERE.root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = HERE.root / name
        if source.is_file():
            target = tmp_path / "checkout" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return tmp_path / "checkout"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The downloads of this checkout, each its own file, so that a test may damage one."""
    target = tmp_path / "cache"
    shutil.copytree(HERE.cache / "sdist", target / "sdist")
    return target


Invoked = subprocess.CompletedProcess[str]


@pytest.fixture
def invoke(checkout: Path, cache: Path) -> Callable[..., Invoked]:
    def run(*arguments: str, **environment: str) -> Invoked:
        return subprocess.run(
            [INVOKE, *arguments],
            cwd=checkout,
            env={**os.environ, "YRPD_FLAVOUR": "cpu", "YRPD_CACHE": str(cache), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(bytes(data))


def assert_refused(run: Invoked, code: int, *said: str) -> None:
    assert run.returncode == code, run.stdout + run.stderr
    for words in said:
        assert words in run.stderr
    assert "next:" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_flipped_byte_in_a_patch(checkout: Path, invoke: Callable[..., Invoked]) -> None:
    patch = next((checkout / "patches" / "v0.10.0rc1").glob("add-*.patch"))
    flip_a_byte(patch)
    assert_refused(invoke("patch"), 3, patch.name, "expected", "found")
    assert not list((checkout / "build").rglob("state.json"))


def test_a_flipped_byte_in_the_source_distribution(checkout: Path, cache: Path, invoke: Callable[..., Invoked]) -> None:
    flip_a_byte(next(cache.rglob("vllm_ascend-0.10.0rc1.tar.gz")))
    assert_refused(invoke("patch"), 3, "b3cef184", "expected", "found")
    assert not list((checkout / "build").rglob("state.json"))


def test_a_flipped_byte_in_a_wheel(checkout: Path, cache: Path, invoke: Callable[..., Invoked]) -> None:
    shutil.copytree(HERE.cache / "wheels", cache / "wheels", copy_function=os.symlink)
    wheel = next((cache / "wheels").glob("*/filelock-*.whl"))
    shutil.copy2(wheel.resolve(), wheel.with_suffix(".copy"))
    os.replace(wheel.with_suffix(".copy"), wheel)
    flip_a_byte(wheel)
    assert invoke("patch").returncode == 0
    assert_refused(invoke("build"), 3, wheel.name, "expected", "found")
    assert not (checkout / "build" / "v0.10.0rc1" / "venv-cpu").exists()


@pytest.mark.parametrize("field", ["commit", "tree", "sha256"])
def test_a_wrong_pin(checkout: Path, invoke: Callable[..., Invoked], field: str) -> None:
    release = checkout / "release.toml"
    lines = release.read_text(encoding="utf-8").splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith(f'{field} = "'))
    lines[at] = lines[at].replace(f'{field} = "', f'{field} = "0', 1)[:-3] + '"\n'
    release.write_text("".join(lines), encoding="utf-8")
    assert_refused(invoke("patch"), 3, "expected", "found")
    assert not list((checkout / "build").rglob("state.json"))


def test_an_unknown_pin(invoke: Callable[..., Invoked]) -> None:
    assert_refused(invoke("patch", "--pin", "v9.9.9"), 2, "v9.9.9", "v0.10.0rc1")


def test_no_docker_engine(invoke: Callable[..., Invoked]) -> None:
    assert invoke("patch").returncode == 0
    run = invoke("image", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert_refused(run, 8, "/nonexistent/docker.sock")


def test_a_stage_without_the_one_before_it(invoke: Callable[..., Invoked]) -> None:
    assert_refused(invoke("build"), 2, "invoke patch")
    assert_refused(invoke("deploy"), 6, "invoke image")


def test_an_unknown_flavour(invoke: Callable[..., Invoked]) -> None:
    assert_refused(invoke("build", "--flavour", "gpu"), 2, "gpu")


def test_a_rebase_to_nowhere(invoke: Callable[..., Invoked]) -> None:
    assert_refused(invoke("patch.rebase"), 2, "which tag", "--to TAG")
    assert_refused(invoke("patch.rebase", "--to", "v9.9.9"), 2, "v9.9.9", "v0.10.1rc1")


def test_cleaning_after_the_lab_was_lost_is_no_error(checkout: Path, invoke: Callable[..., Invoked]) -> None:
    hosts = checkout / "lab.toml"
    hosts.write_text(hosts.read_text(encoding="utf-8").replace("/run/yrpd-lab/", "/run/yrpd-gone/"), encoding="utf-8")
    run = invoke("deploy.clean")
    assert run.returncode == 0, run.stderr
    assert "hosts are gone" in run.stdout
