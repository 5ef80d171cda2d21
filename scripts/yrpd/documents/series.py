"""A patch series: the folder ``patches/<pin>``, its ``series`` file and its ``lock.toml``."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from yrpd.errors import ConfigurationError, PinMismatchError
from yrpd.release import GitId, Pin, Sha256

SERIES = "series"
LOCK = "lock.toml"
DIGEST_LENGTH = 12

_HEADER = """\
What this series is, by content. Written by `invoke patch.export`, the same bytes from the same input; never edit it.

[pin]      the upstream state that the series belongs to: name of the pin in release.toml, commit and tree
[base]     the commit that the series is applied on; it has the pin's tree and says so, and no history
[[patch]]  in the order of the series file: sha256 of the patch's bytes, and the tree after it was applied
[end]      what `invoke patch` must arrive at: commit and tree after the last patch
A flipped byte in a patch, another order, another pin or another git result is a mismatch with one of these.\
"""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LockedPin(_Table):
    """The upstream state."""

    name: str
    commit: GitId | None = None
    tree: GitId


class LockedPatch(_Table):
    """One patch: its file, the file's hash and the tree that it leads to."""

    file: str
    sha256: Sha256
    tree: GitId


class Point(_Table):
    """A commit and its tree; of the base only the commit is written, its tree is the pin's."""

    commit: GitId
    tree: GitId


class Base(_Table):
    """The commit under the series."""

    commit: GitId


class Lock(_Table):
    """All of ``lock.toml``."""

    format: Literal[1] = 1
    pin: LockedPin
    base: Base
    patches: tuple[LockedPatch, ...] = Field(default=(), validation_alias="patch", serialization_alias="patch")
    end: Point

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    @property
    def digest(self) -> str:
        """Sha256 over the lock's content, whatever its layout: the identity of the patched tree."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder(self) -> str:
        """The name of the work tree that belongs to this lock."""
        return self.digest[:DIGEST_LENGTH]

    def render(self) -> str:
        """Return the file's text; equal locks give equal bytes."""
        import tomlkit  # here: only export writes a lock, and a no-op run takes no longer than its imports

        document = tomlkit.document()
        for line in _HEADER.splitlines():
            document.add(tomlkit.comment(line) if line else tomlkit.nl())
        document.add(tomlkit.nl())
        document.add("format", tomlkit.item(self.format))
        document.add("pin", tomlkit.item(self.pin.model_dump(exclude_none=True)))
        document.add("base", tomlkit.item(self.base.model_dump()))
        entries = tomlkit.aot()
        for entry in self.patches:
            entries.append(tomlkit.item(entry.model_dump()))
        if self.patches:
            document.add("patch", entries)
        document.add("end", tomlkit.item(self.end.model_dump()))
        return document.as_string().rstrip("\n") + "\n"


@dataclass(frozen=True)
class Series:
    """The patches of one pin, in order.

    Attributes:
        folder: Where they are.
        names: File names, in the order of the series file.
        comments: The series file's leading comment lines, kept when it is written again.
    """

    folder: Path
    names: tuple[str, ...]
    comments: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """Return where a patch is."""
        return self.folder / name

    def read(self, name: str) -> bytes:
        """Return a patch's bytes.

        Raises:
            ConfigurationError: It is listed but not there.
        """
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError as error:
            message = f"{self.folder.name}/{SERIES} lists {name}, and there is no such file."
            raise ConfigurationError(message, next_command="invoke patch.check") from error

    def render(self) -> str:
        """Return the series file's text."""
        return "".join(f"{line}\n" for line in (*self.comments, *self.names))


def parse_series(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (names, leading comments) of a series file; blank lines and ``#`` comments are no names."""
    lines = [line.strip() for line in text.splitlines()]
    names = tuple(line for line in lines if line and not line.startswith("#"))
    first = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    return names, tuple(line for line in lines[:first] if line.startswith("#"))


def begin(folder: Path) -> str:
    """Return the command that makes a series where there is none: carried over from another pin, or a first one."""
    others = any(path.parent != folder for path in folder.parent.glob(f"*/{SERIES}"))
    return f"invoke patch.rebase --to {folder.name}" if others else f"invoke patch.export --pin {folder.name}"


def load_series(folder: Path) -> Series:
    """Read the series of a pin.

    Raises:
        ConfigurationError: There is none, a name is listed twice, or one points out of the folder.
    """
    try:
        names, comments = parse_series((folder / SERIES).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"patches/{folder.name}/{SERIES} does not exist, so there is nothing to apply."
        raise ConfigurationError(message, next_command=begin(folder)) from error
    except UnicodeDecodeError as error:
        message = f"patches/{folder.name}/{SERIES} is not text: {error}."
        raise ConfigurationError(message, next_command=f"git checkout -- patches/{folder.name}/{SERIES}") from error
    wrong = [name for name in names if Path(name).name != name or not name.endswith(".patch")]
    wrong += [name for name, count in Counter(names).items() if count > 1]
    if wrong:
        raise ConfigurationError(
            f"patches/{folder.name}/{SERIES} must list *.patch files of its folder, each once; wrong: {wrong[0]!r}.",
            next_command="invoke patch.check",
        )
    return Series(folder, names, comments)


def load_lock(folder: Path) -> Lock:
    """Read a series' lock.

    Raises:
        ConfigurationError: It is missing or malformed.
    """
    path = folder / LOCK
    name = f"patches/{folder.name}/{LOCK}"
    try:
        with path.open("rb") as stream:
            return Lock.model_validate(tomllib.load(stream))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{name} does not exist.", next_command="invoke patch.export") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{name} is not valid TOML: {error}."
        raise ConfigurationError(message, next_command=f"git checkout -- {name}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{name}: {where}: {first['msg']} (found {first.get('input')!r})."
        raise ConfigurationError(message, next_command=f"git checkout -- {name}") from error


@dataclass(frozen=True)
class Mismatch:
    """A difference between a series and its lock.

    Attributes:
        kind: ``pin``, ``order``, ``unlocked``, ``sha256`` or ``unlisted``.
        file: Name of the file in the series' folder.
        told: What the file is or has, expected and found, as the end of a sentence.
        next_command: What to type next.
    """

    kind: str
    file: str
    told: str
    next_command: str


def mismatches(series: Series, lock: Lock, name: str, pin: Pin) -> Iterator[Mismatch]:
    """Yield how pin, order and bytes differ from what the lock says.

    Args:
        series: The series.
        lock: Its lock.
        name: The pin's name.
        pin: The pin as ``release.toml`` has it.
    """
    where = f"patches/{series.folder.name}"
    meant = f"git diff {where}   (or, when the change is meant: invoke patch.export)"
    pairs = (("name", lock.pin.name, name), ("commit", lock.pin.commit, pin.commit), ("tree", lock.pin.tree, pin.tree))
    for what, expected, found in pairs:
        if expected != found:
            told = f"belongs to another pin: {what} expected {expected}, found {found} in release.toml"
            yield Mismatch("pin", LOCK, told, "git diff release.toml patches")
    locked = {entry.file: entry.sha256 for entry in lock.patches}
    if [file for file in locked if file in series.names] != [file for file in series.names if file in locked]:
        told = f"has another order than {LOCK}: expected {', '.join(locked)}; found {', '.join(series.names)}"
        yield Mismatch("order", SERIES, told, meant)
    for file in series.names:
        found = hashlib.sha256(series.read(file)).hexdigest()
        if file not in locked:
            yield Mismatch("unlocked", file, f"is not in {LOCK}", meant)
        elif locked[file] != found:
            told = f"was changed: expected sha256 {locked[file]}, found {found}"
            back = f"git diff {where}/{file}   (git checkout -- {where}/{file} brings the file back)"
            yield Mismatch("sha256", file, told, back)
    for file in sorted(locked.keys() - set(series.names)):
        yield Mismatch("unlisted", LOCK, f"has {file}, which is not in the series", meant)


def require_locked(series: Series, lock: Lock, name: str, pin: Pin) -> None:
    """Check that pin, order and bytes are what the lock says, before anything is done with them; see `mismatches`.

    Raises:
        PinMismatchError: One of them is not; expected and found are named.
    """
    for one in mismatches(series, lock, name, pin):
        where = f"patches/{series.folder.name}/{one.file}"
        raise PinMismatchError(f"{where} {one.told}.", next_command=one.next_command)
