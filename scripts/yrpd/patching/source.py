"""The pin's source as a bare repository with one commit, proved equal to the pin whichever way it came.

Two ways, in this order: the sdist when it is already in the cache; git at the pinned commit; the sdist from the package
index where git hosts are out of reach. The proof is the same for all: the tree id.

The commit under the series is our own, made of the pin's tree, a fixed date and a message that names the pin. An sdist
carries no commit object, so upstream's own cannot be had both ways; with this one every id of the series is the same on
every machine.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yrpd.errors import ConfigurationError, EnvironmentFailure, PinMismatchError
from yrpd.git.repository import GitError, Repository, Signature
from yrpd.project import Project
from yrpd.release import Pin
from yrpd.reporting import Reporter

IDENTITY = ("openYuanrong patch series", "patches@yrpd.invalid")
BASE_AUTHOR = Signature(*IDENTITY, "2026-01-01T00:00:00+0000")
BASE_REF = "refs/heads/base"
# A git host that can be reached answers the first question in well under this.
REACH_SECONDS = 5.0
FETCH_SECONDS = 300.0


@dataclass(frozen=True)
class Source:
    """A proved source.

    Attributes:
        repository: The bare repository.
        base: The commit that the series goes on.
        tree: Its tree, the pin's.
    """

    repository: Repository
    base: str
    tree: str


def base_message(pin: Pin) -> str:
    """Return the message of the commit under the series."""
    return (
        f"{pin.sdist.project} {pin.tag}\n\nThe tree of upstream {pin.state},\nwithout its history; tree {pin.tree}.\n"
    )


def cached_sdist(project: Project, pin: Pin) -> Path:
    """Return where the pin's sdist is kept once it was fetched: by its hash."""
    return project.cache / "sdist" / pin.sdist.sha256 / pin.sdist.file


def source_folder(project: Project, name: str) -> Path:
    """Return where a pin's source repository is."""
    return project.pin_build(name) / "source.git"


def check_cached_sdist(project: Project, pin: Pin) -> bool:
    """Tell whether the sdist is in the cache, and check it when it is.

    Raises:
        PinMismatchError: Its bytes changed. It is not fetched again silently: a cache that changes is worth knowing.
    """
    path = cached_sdist(project, pin)
    if not path.is_file():
        return False
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != pin.sdist.sha256:
        message = f"{path} is damaged: expected sha256 {pin.sdist.sha256}, found {found}."
        raise PinMismatchError(message, next_command=f"rm {path} && invoke patch   (fetches it again)")
    return True


def open_source(project: Project, name: str, pin: Pin) -> Source | None:
    """Return the source that is already there and still is the pin, else ``None``; never uses the network."""
    check_cached_sdist(project, pin)
    repository = Repository(source_folder(project, name))
    if not repository.exists():
        return None
    try:
        base = repository.rev_parse(BASE_REF)
        same = repository.tree_of(base) == pin.tree and repository.message(base).strip() == base_message(pin).strip()
    except GitError:
        return None
    return Source(repository, base, pin.tree) if same else None


def say_fetch(project: Project, pins: Mapping[str, Pin], reporter: Reporter) -> list[str]:
    """Say which pins' sources are not here yet, for a dry run, which fetches none.

    Returns:
        The names of those pins.
    """
    lacking = [name for name, pin in pins.items() if open_source(project, name, pin) is None]
    for name in lacking:
        reporter.say(f"would fetch the source of {name} first")
    return lacking


def ensure_source(project: Project, name: str, pin: Pin, reporter: Reporter) -> Source:
    """Return the pin's source, fetched and proved when it is not there yet.

    Raises:
        PinMismatchError: A hash, commit or tree is not the pin's, or upstream's tag was moved.
        EnvironmentFailure: Neither git nor the package index could be reached.
    """
    kept = open_source(project, name, pin)
    if kept is not None:
        return kept
    final = source_folder(project, name)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".incoming-") as scratch:
        repository = Repository.init(Path(scratch) / "source.git", bare=True)
        with reporter.step(f"fetching {pin.sdist.project} {pin.tag}"):
            tree, origin = _fetch(repository, project, pin, reporter)
            reporter.say(f"    tree {tree} is the pin's ({origin})")
        base = repository.commit_tree(tree, base_message(pin), BASE_AUTHOR)
        repository.update_ref(BASE_REF, base)
        shutil.rmtree(final, ignore_errors=True)
        repository.folder.rename(final)
    return Source(Repository(final), base, tree)


def _fetch(repository: Repository, project: Project, pin: Pin, reporter: Reporter) -> tuple[str, str]:
    if check_cached_sdist(project, pin):
        return _from_sdist(repository, cached_sdist(project, pin), pin), "from the sdist in the cache"
    try:
        return _from_git(repository, pin), f"from git, {pin.state}"
    except GitError as error:
        unreachable = error.reason
        reporter.say(f"    git: {unreachable}; taking the sdist from the package index")
    from yrpd.wheels.package_index import download  # loads an HTTP stack

    path = cached_sdist(project, pin)
    try:
        place = download(pin.sdist.project, pin.sdist.file, pin.sdist.sha256, path, reporter)
    except EnvironmentFailure as error:
        message = f"The pin's source is out of reach: git: {unreachable}; {error.message}"
        raise EnvironmentFailure(message, next_command=error.next_command) from error
    return _from_sdist(repository, path, pin), f"from the sdist, {place}"


def _from_git(repository: Repository, pin: Pin) -> str:
    found = tagged(repository, pin)
    if found is None or (pin.commit and found != pin.commit):
        raise PinMismatchError(
            f"Upstream's tag {pin.tag} was moved: expected {pin.state}, found {found or 'no such tag'}.",
            next_command="git diff release.toml   (the pin stays; a new upstream state is a new pin)",
        )
    repository.fetch(pin.repository, found, depth=1, deadline=FETCH_SECONDS)
    return _require_tree(repository.tree_of(found), pin, f"commit {found}")


def tagged(repository: Repository, pin: Pin) -> str | None:
    """Return the commit that upstream's tag names now; ``None`` when the tag is gone.

    Raises:
        GitError: Upstream is out of reach.
    """
    tag = f"refs/tags/{pin.tag}"
    refs = repository.ls_remote(pin.repository, tag, f"{tag}^{{}}", deadline=REACH_SECONDS)
    return refs.get(f"{tag}^{{}}", refs.get(tag))


def _from_sdist(repository: Repository, path: Path, pin: Pin) -> str:
    with tempfile.TemporaryDirectory(dir=repository.folder.parent) as scratch:
        folder = unpack(path, Path(scratch))
        drop_generated(folder, pin.sdist.generated)
        return _require_tree(repository.write_tree(folder), pin, path.name)


def _require_tree(found: str, pin: Pin, what: str) -> str:
    if found != pin.tree:
        message = f"The tree of {what} is not the pin's: expected {pin.tree}, found {found}."
        raise PinMismatchError(message, next_command="git diff release.toml")
    return found


def unpack(archive: Path, into: Path) -> Path:
    """Unpack a source distribution and return its single top folder.

    Members that would leave the folder, devices and the like are refused (tarfile's ``data`` filter).

    Raises:
        PinMismatchError: A member is refused, or there is not exactly one top folder.
    """
    try:
        with tarfile.open(archive) as stream:
            stream.extractall(into, filter="data")
    except (tarfile.TarError, EOFError) as error:
        message = f"{archive.name} cannot be unpacked: {error}."
        raise PinMismatchError(message, next_command="git diff release.toml") from error
    tops = sorted(into.iterdir())
    if len(tops) != 1 or not tops[0].is_dir():
        message = f"{archive.name} must hold one folder; found {', '.join(top.name for top in tops) or 'nothing'}."
        raise PinMismatchError(message, next_command="git diff release.toml")
    return tops[0]


def drop_generated(folder: Path, generated: tuple[str, ...]) -> None:
    """Remove what packaging added.

    Raises:
        ConfigurationError: A path is not inside the folder.
    """
    for name in generated:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or path == folder:
            raise ConfigurationError(f"release.toml: sdist.generated: {name!r} is not inside the sdist.",
                                     next_command="git diff release.toml")  # fmt: skip
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
