"""The patched tree that build and image start from: taken only when it is exactly what its record says."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from yrpd.building import commands
from yrpd.documents.patched import archive, load_patched, pin_listing
from yrpd.errors import ConfigurationError, PinMismatchError
from yrpd.project import Project, update_state
from yrpd.reporting import Reporter

PIN = "v0.10.0rc1"
IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *IDENTITY, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def reporter() -> Reporter:
    reporter = Reporter()
    reporter.console = Console(file=io.StringIO(), width=200)
    return reporter


@pytest.fixture
def unpatched(tmp_path: Path) -> Project:
    root = tmp_path / "checkout"
    root.mkdir()
    shutil.copy(Project.here().release_file, root / "release.toml")
    return Project(root)


@pytest.fixture
def project(unpatched: Project) -> Project:
    """A checkout whose patched tree is a small one."""
    work = unpatched.root / "tree"
    (work / "vllm_ascend").mkdir(parents=True)
    (work / "vllm_ascend" / "a.py").write_text("one\n")
    (work / "run me.sh").write_text("#!/bin/sh\n")
    (work / "run me.sh").chmod(0o755)
    _git(work, "init", "-q")
    _git(work, "add", "-A")
    _git(work, "commit", "-qm", "pin")
    base = _git(work, "rev-parse", "HEAD")
    (work / "vllm_ascend" / "b.py").write_text("two\n")
    _git(work, "add", "-A")
    _git(work, "commit", "-qm", "patch")
    record = {
        "pin": PIN,
        "base_commit": base,
        "commit": _git(work, "rev-parse", "HEAD"),
        "tree": _git(work, "rev-parse", "HEAD^{tree}"),
        "worktree": "tree",
        "patches": ["b.patch"],
        "series_digest": "e" * 64,
    }
    update_state(unpatched, PIN, "patch", record)
    return unpatched


def test_it_says_what_the_series_changes_and_that_kernels_stay(project: Project) -> None:
    _, patched = load_patched(project)
    assert patched.changed == ("vllm_ascend/b.py",)
    assert patched.version == "0.10.0rc1+yuanrong.1"
    assert patched.kernels.startswith("kernel rebuild: not needed")


@pytest.mark.parametrize("flavour", ["cpu", "npu"])
def test_before_invoke_patch_there_is_nothing_to_build(unpatched: Project, reporter: Reporter, flavour: str) -> None:
    for command in (commands.build, commands.image):
        with pytest.raises(ConfigurationError) as caught:
            command(project=unpatched, reporter=reporter, flavour=flavour)  # type: ignore[arg-type]
        assert caught.value.next_command == f"invoke patch --pin {PIN}"
    assert not unpatched.build.exists()


def test_an_unknown_pin_is_a_configuration_error(project: Project, reporter: Reporter) -> None:
    with pytest.raises(ConfigurationError, match=r"v9\.9"):
        commands.build(project=project, reporter=reporter, flavour="cpu", pin="v9.9")


def test_an_edited_tree_is_refused_and_the_file_named(project: Project) -> None:
    (project.root / "tree" / "vllm_ascend" / "a.py").write_text("edited\n")
    with pytest.raises(PinMismatchError, match=r"vllm_ascend/a\.py") as caught:
        load_patched(project)
    assert "--discard" in caught.value.next_command


def test_another_commit_than_the_recorded_one_is_refused(project: Project) -> None:
    _git(project.root / "tree", "commit", "-q", "--allow-empty", "-m", "more")
    with pytest.raises(PinMismatchError, match="invoke patch left commit"):
        load_patched(project)


def test_a_tree_that_is_gone_leads_back_to_patch(project: Project) -> None:
    shutil.rmtree(project.root / "tree")
    with pytest.raises(ConfigurationError, match="gone or broken") as caught:
        load_patched(project)
    assert caught.value.next_command == f"invoke patch --pin {PIN}"


def test_what_goes_into_the_image_is_the_commit_and_not_what_lies_about(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (project.root / "tree" / ".git" / "info" / "exclude").write_text("*.so\n")
    (project.root / "tree" / "left.so").write_bytes(b"left over")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[core]\n\tautocrlf = true\n[tar]\n\tumask = 0077\n")
    monkeypatch.setenv("HOME", str(home))
    _, patched = load_patched(project)
    with tarfile.open(fileobj=io.BytesIO(archive(patched))) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    assert files == {"run me.sh": b"#!/bin/sh\n", "vllm_ascend/a.py": b"one\n", "vllm_ascend/b.py": b"two\n"}


def test_the_pins_files_are_listed_as_git_would(project: Project) -> None:
    _, patched = load_patched(project)
    work = project.root / "tree"
    _git(work, "checkout", "-q", "HEAD~1")
    pinned = patched.pin.model_copy(update={"tree": _git(work, "rev-parse", "HEAD^{tree}")})
    files, index = pin_listing(type(patched)(**{**patched.__dict__, "pin": pinned}))
    assert files == subprocess.run(["git", "ls-files", "-z"], cwd=work, check=True, capture_output=True).stdout
    assert index.decode() == _git(work, "ls-files", "-s") + "\n"


def test_a_dry_run_prints_the_plan_and_changes_nothing(project: Project, reporter: Reporter) -> None:
    before = sorted(path for path in project.root.rglob("*") if ".git" not in path.parts)
    document = commands.build(project=project, reporter=reporter, flavour="cpu", dry_run=True)
    assert document["state"] == "planned"
    assert document["version"] == "0.10.0rc1+yuanrong.1"
    assert sorted(path for path in project.root.rglob("*") if ".git" not in path.parts) == before
