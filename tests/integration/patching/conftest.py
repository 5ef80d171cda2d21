"""A whole project in miniature: a small upstream in git and as an sdist, a small connector, a release file."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from yrpd.patching import commands
from yrpd.patching import rebase_commands as moving
from yrpd.project import Project
from yrpd.reporting import Reporter

#: A thousand patches take two minutes: the long form.
collect_ignore = [] if os.environ.get("YRPD_TEST_FULL") else ["test_thousand.py"]
UPSTREAM = {
    "README.md": "upstream\n",
    "setup.py": "print('setup')\n",
    "vllm_ascend/__init__.py": "",
    "vllm_ascend/distributed/__init__.py": "".join(f"line {number}\n" for number in range(30)),
    ".gitignore": "*.log\n__pycache__/\n",
    "kept.log": "tracked although ignored\n",
}
CONNECTOR = {"__init__.py": '"""Connector."""\n', "keys.py": "A = 1\nB = 2\nC = 3\n", "transport/host.py": "HOST = 1\n"}
MESSAGE = "Add the connector\n\nBody.\n\nWhy: because\nUpstream: no\nRemoval: later\n"
HOOK = "Hook it in\n\nBody with an umlaut: ä.\n\nWhy: because\nUpstream: no\nRemoval: later\n"
RELEASE = """
[release]
name = "tiny"
revision = 1
default_pin = "v1"

[pins."v1"]
repository = "{repository}"
tag = "v1"
commit = "{commit}"
tree = "{tree}"
version = "1.0"
vllm = "0.10.0"

[pins."v1".sdist]
project = "tiny-upstream"
file = "tiny_upstream-1.0.tar.gz"
sha256 = "{sha256}"
generated = ["PKG-INFO", "made.egg-info"]

[flavours.cpu]
base = "bookworm"
torch = "2.6.0"
soc_version = "X"
dockerfile = "docker/Dockerfile.cpu"

[flavours.npu]
base = "image"
torch = "2.7.1"
soc_version = "X"
dockerfile = "docker/Dockerfile.npu"

[openyuanrong]
datasystem = "0.8.1"
datasystem_before_cann_8_5 = "0.8.0"
"""


def git(folder: Path, *args: str, **env: str) -> str:
    """Run git as a user would, with an identity."""
    identity = {
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@x.invalid",
        "GIT_COMMITTER_NAME": "C",
        "GIT_COMMITTER_EMAIL": "c@x.invalid",
    }
    done = subprocess.run(
        ["git", *args], cwd=folder, check=True, capture_output=True, text=True, env={**os.environ, **identity, **env}
    )
    return done.stdout.strip()


def put(folder: Path, files: dict[str, str]) -> None:
    """Write text files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def make_sdist(path: Path, files: dict[str, str]) -> str:
    """Write a source distribution with what packaging adds; return its sha256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {**files, "PKG-INFO": "Name: tiny\n", "made.egg-info/SOURCES.txt": "x\n"}.items():
            member = tarfile.TarInfo(f"tiny_upstream-1.0/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Tiny:
    """The miniature project and its upstream."""

    project: Project
    upstream: Path
    links: Path

    @property
    def patches(self) -> Path:
        """The series folder."""
        return self.project.patches("v1")

    @property
    def sdist(self) -> Path:
        """The sdist as the index has it."""
        return self.links / "tiny_upstream-1.0.tar.gz"

    @property
    def tree(self) -> Path:
        """The work tree that was applied last."""
        from yrpd.patching.apply import current_tree

        found = current_tree(self.project, "v1")
        assert found is not None
        return found

    def edit_release(self, old: str, new: str) -> None:
        """Replace text in release.toml."""
        path = self.project.release_file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def release_upstream(self, tag: str, change: Callable[[Path], None]) -> None:
        """Let upstream change something and tag it, and make the tag known to the project."""
        change(self.upstream)
        git(self.upstream, "add", "-A", "-f")
        git(self.upstream, "commit", "-q", "-m", tag)
        git(self.upstream, "tag", tag)
        text = self.project.release_file.read_text(encoding="utf-8")
        end = text.index("[flavours.cpu]")
        table = (
            text[text.index('[pins."v1"]') : end]
            .partition("[known")[0]
            .replace('pins."v1"', f'known."{tag}"')
            .replace('tag = "v1"', f'tag = "{tag}"')
        )
        for name, revision in (("commit", "HEAD"), ("tree", "HEAD^{tree}")):
            old = next(line for line in table.splitlines() if line.startswith(f"{name} = "))
            table = table.replace(old, f'{name} = "{git(self.upstream, "rev-parse", revision)}"')
        table = re.sub(r'sha256 = ".*"', f'sha256 = "{"0" * 64}"', table)
        self.project.release_file.write_text(text[:end] + table + text[end:], encoding="utf-8")

    def move(self, verb: str, **options: Any) -> dict[str, Any]:
        """Run a command that goes to another upstream and return its document."""
        command: Callable[..., dict[str, Any]] = getattr(moving, verb)
        return command(project=self.project, reporter=Reporter(as_json=True), **options)

    def run(self, verb: str, **options: Any) -> dict[str, Any]:
        """Run a command and return its document."""
        command: Callable[..., dict[str, Any]] = getattr(commands, verb)
        return command(project=self.project, reporter=Reporter(as_json=True), **options)

    def files(self) -> dict[str, bytes]:
        """All bytes of the series folder."""
        return {path.name: path.read_bytes() for path in sorted(self.patches.iterdir())}


def make_tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Make the project before anything was exported; upstream is in reach by git and as an sdist."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    upstream, links, root = folder / "upstream", folder / "links", folder / "project"
    links.mkdir()
    put(upstream, UPSTREAM)
    git(upstream, "init", "-q", "-b", "main")
    git(upstream, "add", "-A", "-f")
    git(upstream, "commit", "-q", "-m", "upstream")
    git(upstream, "tag", "v1")
    commit, tree = git(upstream, "rev-parse", "HEAD"), git(upstream, "rev-parse", "HEAD^{tree}")
    sha256 = make_sdist(links / "tiny_upstream-1.0.tar.gz", UPSTREAM)
    put(root, {f"connector_src/yuanrong/{name}": text for name, text in CONNECTOR.items()})
    release = RELEASE.format(repository=upstream, commit=commit, tree=tree, sha256=sha256)
    put(root, {"patches/connector-message.txt": MESSAGE, "release.toml": release})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.delenv("YRPD_CACHE", raising=False)
    return Tiny(Project(root), upstream, links)


def add_series(tiny: Tiny) -> Tiny:
    """Give the project a series of two patches."""
    tiny.run("export")
    tiny.run("patch")
    hook = tiny.tree / "vllm_ascend/distributed/__init__.py"
    hook.write_text(hook.read_text(encoding="utf-8").replace("line 20\n", "line 20\nhook\n"), encoding="utf-8")
    git(tiny.tree, "commit", "-q", "-a", "-m", HOOK, GIT_AUTHOR_DATE="2026-01-05T00:00:00+0100")
    tiny.run("export")
    tiny.run("patch")
    return tiny


@pytest.fixture
def bare_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The project before anything was exported."""
    return make_tiny(tmp_path, monkeypatch)


@pytest.fixture
def tiny(bare_tiny: Tiny) -> Tiny:
    """The project with a series of two patches."""
    return add_series(bare_tiny)
