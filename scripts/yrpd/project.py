"""Where things are in a checkout of this project. No other module joins these names itself."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from yrpd.errors import EnvironmentFailure

LOCK_SECONDS = 60.0  # longer than any patch command but a first fetch


@dataclass(frozen=True)
class Project:
    """The folders of one checkout, or of a release folder on a host that has no checkout.

    Attributes:
        root: The project's top folder; without a checkout the folder that relative names are seen from.
        released: The release folder that deploy works from, where there is no checkout.
    """

    root: Path
    released: Path | None = None

    @classmethod
    def here(cls) -> Project:
        """Return the checkout that this package is part of."""
        return cls(Path(__file__).resolve().parents[2])

    @property
    def release_file(self) -> Path:
        """The pins."""
        return self.root / "release.toml"

    @property
    def connector_source(self) -> Path:
        """The single source of the connector package."""
        return self.root / "connector_src" / "yuanrong"

    @property
    def code(self) -> Path:
        """The product's own code."""
        return self.root / "scripts" / "yrpd"

    @property
    def tools_lock(self) -> Path:
        """What the commands and tests are installed from."""
        return self.root / "requirements.lock"

    @property
    def docker(self) -> Path:
        """Dockerfiles and the locks of what goes into images."""
        return self.root / "docker"

    @property
    def build(self) -> Path:
        """Everything that can be made again; without a checkout: logs, and copies of the hosts' records."""
        return self.root / "build" if self.released is None else self._state

    @property
    def dist(self) -> Path:
        """Results: image records, verification reports."""
        return self.root / "dist" if self.released is None else self._state

    @property
    def _state(self) -> Path:
        # Never beside the release: whoever checks that folder would find files that no list names.
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "yrpd"

    @property
    def cache(self) -> Path:
        """Downloads, kept by content hash; ``YRPD_CACHE`` puts them elsewhere (shared by several checkouts)."""
        return Path(os.environ.get("YRPD_CACHE") or self.build / "cache")

    def patches(self, pin: str) -> Path:
        """The series that belongs to a pin."""
        return self.root / "patches" / pin

    def pin_build(self, pin: str) -> Path:
        """What was made for a pin: sources, work trees, the state file."""
        return self.build / pin

    def state_file(self, pin: str) -> Path:
        """The record that one stage leaves for the next."""
        return self.pin_build(pin) / "state.json"


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step, so that a reader never sees half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    os.chmod(name, 0o644)
    os.replace(name, path)


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document in one step, keys sorted."""
    write_text(path, json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_state(project: Project, pin: str) -> dict[str, Any]:
    """Return the pin's state record, stage name to that stage's document; empty when nothing was made yet."""
    path = project.state_file(pin)
    if not path.exists():
        return {}
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def update_state(project: Project, pin: str, stage: str, document: dict[str, Any]) -> None:
    """Record what a stage made; the other stages' records stay, whoever writes them meanwhile."""
    with exclusive(project, pin, "state"):
        state = read_state(project, pin)
        state[stage] = document
        write_json(project.state_file(pin), state)


@contextmanager
def exclusive(project: Project, pin: str, what: str, *, patience_s: float = LOCK_SECONDS) -> Iterator[None]:
    """Let one process at a time do something with a pin.

    Args:
        project: The checkout.
        pin: The pin's name.
        what: What is done.
        patience_s: Seconds to wait for another one.

    Raises:
        EnvironmentFailure: Another one is at work.
    """
    place = project.pin_build(pin)
    place.mkdir(parents=True, exist_ok=True)
    with (place / f".{what}.flock").open("a+") as stream:
        try:  # the kernel lets go when the process ends, however it ends
            _lock(stream, patience_s)
        except BlockingIOError as error:
            stream.seek(0)
            other = stream.read().strip()
            raise EnvironmentFailure(
                f"Another {what} command (process {other or 'unknown'}) is working on {pin}.",
                next_command=f"ps -fp {other}   (when it is done, the same command again)",
            ) from error
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def _lock(stream: IO[str], patience_s: float) -> None:
    with suppress(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    # Here, because it brings asyncio, and a run with nothing to do takes no longer than its imports.
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    wait = Retrying(
        retry=retry_if_exception_type(BlockingIOError),
        stop=stop_after_delay(patience_s),
        wait=wait_fixed(0.1),
        reraise=True,
    )
    wait(fcntl.flock, stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
