"""One command from a clean tree to an sdist, a wheel, their checksums and an annotated tag."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workshop.publishing.changelog import Section, section_to_release
from yrpd.errors import BuildError, ConfigurationError, EnvironmentFailure, PinMismatchError
from yrpd.project import write_text
from yrpd.reporting import Reporter

SUMS = "SHA256SUMS"


def publish(root: Path, reporter: Reporter, *, dry_run: bool = False) -> dict[str, Any]:
    """Build the release of the commit that is checked out, and tag it. Run again, it keeps what is right.

    Everything is built from the commit and not from the folder, twice, and both builds must be equal.

    Args:
        root: The checkout.
        reporter: Says what is done.
        dry_run: Check and build, but write neither files nor tag.

    Returns:
        ``{version, tag, commit, state, files}``; ``files`` are sha256 digests by name.

    Raises:
        ConfigurationError: The tree is not clean, or version and changelog do not agree.
        PinMismatchError: The tag, or the release's folder, is there and is of something else.
        BuildError: The build failed, or two builds differ.
        EnvironmentFailure: Git or the build backend is missing, or git does not know who tags.
    """
    if _git(root, "status", "--porcelain"):
        raise ConfigurationError("The tree has changes that no commit has.", next_command="git status")
    version, section = _checked(root)
    tag, commit = f"v{version}", _git(root, "rev-parse", "HEAD")
    tagged = _git(root, "rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}", fine=(0, 1))
    if tagged not in ("", commit):
        raise PinMismatchError(
            f"{tag} is already commit {tagged[:12]}, and HEAD is {commit[:12]}.",
            next_command="set a new version in pyproject.toml and CHANGELOG.md; a released one is not moved",
        )
    if not dry_run and not tagged:
        _git(root, "var", "GIT_COMMITTER_IDENT")  # before anything is written: who tags?
    folder = root / "dist" / "project" / version
    with tempfile.TemporaryDirectory() as scratch:
        with reporter.step(f"building {version} twice from {commit[:12]}"):
            made = _built_twice(root, Path(scratch), int(_git(root, "log", "-1", "--format=%ct")))
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made}
        sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        kept = (folder / SUMS).is_file()
        if kept and (folder / SUMS).read_text(encoding="utf-8") != sums:
            raise PinMismatchError(f"{folder} holds another release of {version}.", next_command=f"ls -l {folder}")
        document = {"version": version, "tag": tag, "commit": commit, "files": digests}
        for line in sums.splitlines():
            reporter.say(f"    {line}")
        if dry_run:
            return {**document, "state": "planned"}
        folder.mkdir(parents=True, exist_ok=True)
        for path in made:
            shutil.copyfile(path, folder / path.name)
        write_text(folder / SUMS, sums)
    if not tagged:
        _git(root, "tag", "--annotate", tag, "--cleanup=verbatim", "--message", f"{version}\n\n{section.text}\n")
    reporter.say(f"{'kept' if kept and tagged else 'made'}: {folder} and the tag {tag}")
    reporter.say(f"next: git push origin {tag}")
    return {**document, "state": "kept" if kept and tagged else "made"}


def _checked(root: Path) -> tuple[str, Section]:
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return version, section_to_release((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)


def _built_twice(root: Path, scratch: Path, epoch: int) -> list[Path]:
    builds = [_built(root, scratch / number, epoch) for number in ("one", "two")]
    first, second = ({path.name: path.read_bytes() for path in build} for build in builds)
    if first != second:
        differing = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
        raise BuildError(f"Two builds of one commit differ in {', '.join(differing)}.", next_command="report this")
    return builds[0]


def _built(root: Path, scratch: Path, epoch: int) -> list[Path]:
    source, target = scratch / "source", scratch / "dist"
    source.mkdir(parents=True)
    archive = scratch / "source.tar"
    _git(root, "archive", "--format=tar", f"--output={archive}", "HEAD")
    shutil.unpack_archive(archive, source, filter="data")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target)]
    _run(command, source, environment, BuildError, f"{' '.join(command)} failed")
    return sorted(path for path in target.iterdir() if path.is_file())


def _git(root: Path, *arguments: str, fine: Sequence[int] = (0,)) -> str:
    # The caller's own git: a tag is signed off with the caller's name, by the caller's settings.
    return _run(["git", *arguments], root, None, EnvironmentFailure, f"git {arguments[0]} failed", fine)


def _run(
    command: Sequence[str],
    folder: Path,
    environment: dict[str, str] | None,
    kind: type[BuildError] | type[EnvironmentFailure],
    what: str,
    fine: Sequence[int] = (0,),
) -> str:
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise EnvironmentFailure(f"{command[0]} is not installed.", next_command="apt-get install git") from error
    if done.returncode not in fine:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise kind(f"{what}: {lines[-1]}", next_command="bash scripts/release.sh --dry-run", detail="\n".join(lines))
    return done.stdout.strip()
