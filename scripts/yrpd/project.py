"""Where things are in a checkout of this project. No other module joins these names itself."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
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
    """Record what a stage made; the other stages' records stay."""
    state = read_state(project, pin)
    state[stage] = document
    write_json(project.state_file(pin), state)
