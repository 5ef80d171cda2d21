"""A release of the project, on a real git repository with a package in it."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from workshop.publishing.publish import publish
from yrpd.errors import ConfigurationError, EnvironmentFailure, PinMismatchError
from yrpd.reporting import Reporter

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "tiny"
version = "{version}"
requires-python = ">=3.11"

[tool.hatch.build.targets.wheel]
packages = ["scripts/tiny"]
"""
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [{version}] - 2026-11-26\n\n### Added\n\n- A thing.\n"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, version: str) -> str:
    (folder / "pyproject.toml").write_text(PYPROJECT.format(version=version))
    (folder / "CHANGELOG.md").write_text(CHANGELOG.format(version=version))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", version)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    folder = tmp_path / "checkout"
    (folder / "scripts" / "tiny").mkdir(parents=True)
    (folder / "scripts" / "tiny" / "__init__.py").write_text('"""Tiny."""\n')
    (folder / ".gitignore").write_text("/dist/\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "A Tester")
    git(folder, "config", "user.email", "tester@example.invalid")
    commit(folder, "0.2.0")
    return folder


def test_one_command_makes_sdist_wheel_checksums_and_tag(checkout: Path) -> None:
    made = publish(checkout, Reporter())
    folder = checkout / "dist" / "project" / "0.2.0"
    assert made["state"] == "made"
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "tiny-0.2.0-py3-none-any.whl",
        "tiny-0.2.0.tar.gz",
    ]
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert zipfile.ZipFile(folder / "tiny-0.2.0-py3-none-any.whl").read("tiny/__init__.py") == b'"""Tiny."""\n'
    with tarfile.open(folder / "tiny-0.2.0.tar.gz") as sdist:
        assert "tiny-0.2.0/CHANGELOG.md" in sdist.getnames()
    assert git(checkout, "cat-file", "-t", "v0.2.0") == "tag"
    assert git(checkout, "rev-parse", "v0.2.0^{commit}") == made["commit"]
    assert git(checkout, "tag", "--list", "--format=%(contents)", "v0.2.0") == "0.2.0\n\n### Added\n\n- A thing."
    assert git(checkout, "status", "--porcelain") == ""


def test_run_again_it_keeps_the_release_to_the_byte(checkout: Path) -> None:
    first = publish(checkout, Reporter())
    tag = git(checkout, "rev-parse", "v0.2.0")
    second = publish(checkout, Reporter())
    assert second == {**first, "state": "kept"}
    assert git(checkout, "rev-parse", "v0.2.0") == tag


def test_a_clone_elsewhere_makes_the_same_bytes(checkout: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(checkout), "elsewhere")
    elsewhere = publish(tmp_path / "elsewhere", Reporter(), dry_run=True)
    assert elsewhere["files"] == publish(checkout, Reporter())["files"]


def test_a_dry_run_builds_and_leaves_nothing_behind(checkout: Path) -> None:
    planned = publish(checkout, Reporter(), dry_run=True)
    assert planned["state"] == "planned"
    assert len(planned["files"]) == 2
    assert not (checkout / "dist").exists()
    assert git(checkout, "tag", "--list") == ""


def test_changes_that_no_commit_has_are_refused(checkout: Path) -> None:
    (checkout / "scripts" / "tiny" / "more.py").write_text("")
    with pytest.raises(ConfigurationError, match="changes that no commit has"):
        publish(checkout, Reporter())


def test_a_version_that_the_changelog_does_not_have_is_refused(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text(PYPROJECT.format(version="0.3.0"))
    git(checkout, "commit", "--quiet", "--all", "--message", "half")
    with pytest.raises(ConfigurationError, match=r"has version 0\.3\.0"):
        publish(checkout, Reporter())


def test_a_released_version_is_not_moved_to_another_commit(checkout: Path) -> None:
    publish(checkout, Reporter())
    (checkout / "scripts" / "tiny" / "more.py").write_text("")
    commit(checkout, "0.2.0")
    with pytest.raises(PinMismatchError, match=r"v0\.2\.0 is already commit"):
        publish(checkout, Reporter())


def test_whoever_git_does_not_know_is_told_before_anything_is_written(checkout: Path) -> None:
    git(checkout, "config", "user.useConfigOnly", "true")
    git(checkout, "config", "--unset", "user.email")
    with pytest.raises(EnvironmentFailure, match="git var failed"):
        publish(checkout, Reporter())
    assert not (checkout / "dist").exists()
