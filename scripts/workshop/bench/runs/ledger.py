"""The folder of a run: raw results with their hashes, so that a run goes on after a cut and no figure is edited in.

``run.json`` holds the configuration and, for every complete repetition of a case, the SHA-256 of each arm's file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yrpd.errors import ConfigurationError, VerificationError
from yrpd.project import write_json

FORMAT = 2


@dataclass
class Ledger:
    """A run's folder.

    Attributes:
        folder: Where the run is.
        document: What ``run.json`` holds.
    """

    folder: Path
    document: dict[str, Any]

    @classmethod
    def begin(cls, folder: Path, configuration: dict[str, Any], command: str) -> Ledger:
        """Open a run, new or begun.

        Raises:
            ConfigurationError: The run was begun with another configuration; its results are not comparable.
        """
        path = folder / "run.json"
        configuration = json.loads(json.dumps(configuration))  # as it will be read again: tuples are lists
        if not path.exists():
            number = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:8]
            ledger = cls(
                folder,
                {
                    "format": FORMAT,
                    "configuration": configuration,
                    "command": command,
                    "salt": number,
                    "attempts": 0,
                    "results": {},
                },
            )
            ledger._write()
            return ledger
        ledger = cls.read(folder)
        old = ledger.document["configuration"]
        if differing := sorted(key for key in {*old, *configuration} if old.get(key) != configuration.get(key)):
            raise ConfigurationError(
                f"The run in {folder} was begun with another {differing[0]}; its results do not compare.",
                detail=f"then: {old.get(differing[0])!r}\nnow:  {configuration.get(differing[0])!r}",
                next_command="invoke bench --fresh",
            )
        return ledger

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """Open a run that exists.

        Raises:
            ConfigurationError: There is none, or of another format.
        """
        try:
            document = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{folder} holds no run: {error}", next_command="invoke bench") from error
        if document.get("format") != FORMAT:
            raise ConfigurationError(
                f"{folder} holds a run of format {document.get('format')!r}, not {FORMAT}.",
                next_command="invoke bench --fresh",
            )
        return cls(folder, document)

    def attempt(self) -> str:
        """Return a salt that no attempt before had: what a cut one left in the DataSystem is never found again."""
        self.document["attempts"] += 1
        self._write()
        return f"{self.document['salt']}.{self.document['attempts']}"

    def has(self, case: str, number: int) -> bool:
        """Tell whether a repetition is complete."""
        return f"{case}/{number}" in self.document["results"]

    def add(self, case: str, number: int, results: dict[str, dict[str, Any]]) -> None:
        """Keep a complete repetition: one file an arm, then its entry."""
        hashes = {}
        for arm, result in results.items():
            path = self.folder / case / f"{number}-{arm}.json"
            write_json(path, result)
            hashes[arm] = hashlib.sha256(path.read_bytes()).hexdigest()
        self.document["results"][f"{case}/{number}"] = hashes
        self._write()

    def results(self) -> dict[str, list[dict[str, dict[str, Any]]]]:
        """Return case -> repetitions -> arm -> raw result, every file compared with its hash.

        Raises:
            VerificationError: A file is missing or is not the one that was measured.
        """
        found: dict[str, list[dict[str, dict[str, Any]]]] = {}
        for key, hashes in sorted(self.document["results"].items()):
            case, number = key.split("/")
            found.setdefault(case, []).append(
                {arm: self._checked(self.folder / case / f"{number}-{arm}.json", sha) for arm, sha in hashes.items()}
            )
        return found

    def _checked(self, path: Path, wanted: str) -> dict[str, Any]:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise VerificationError(f"A raw result is missing: {error}", next_command="invoke bench") from error
        if hashlib.sha256(data).hexdigest() != wanted:
            raise VerificationError(
                f"{path} is not the file that was measured: its SHA-256 differs from the run's record.",
                next_command="invoke bench --fresh",
            )
        document: dict[str, Any] = json.loads(data)
        return document

    def _write(self) -> None:
        write_json(self.folder / "run.json", self.document)
