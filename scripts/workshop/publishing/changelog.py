"""CHANGELOG.md in the form of Keep a Changelog, read as strictly as a release needs it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from yrpd.errors import ConfigurationError

KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
_VERSION = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\S+))?$")
_KIND = re.compile(r"^### (?P<kind>.+)$")
_NEXT = "see https://keepachangelog.com/en/1.1.0/"


@dataclass(frozen=True)
class Section:
    """What one version changed.

    Attributes:
        name: The version, or ``Unreleased``.
        date: The day of the release; ``None`` for what comes next.
        text: The lines below the heading, stripped.
    """

    name: str
    date: date | None
    text: str


def parse(text: str) -> list[Section]:
    """Return the sections, newest first.

    Raises:
        ConfigurationError: A heading is not of the form, a date is none, a kind is unknown or occurs twice, or the
            dates are not in order.
    """
    found: list[tuple[str, date | None, list[str]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("## "):
            heading = _VERSION.match(line)
            if heading is None:
                raise _error(number, f"{line!r} is neither '## [Unreleased]' nor '## [VERSION] - YYYY-MM-DD'")
            found.append((heading["name"], _date(heading["name"], heading["date"], number), []))
        elif found:
            kind = _KIND.match(line)
            if kind is not None and (kind["kind"] not in KINDS or line in found[-1][2]):
                raise _error(number, f"{line!r} is unknown or there twice; there are: {', '.join(KINDS)}")
            found[-1][2].append(line)
    days = [day for _, day, _ in found if day is not None]
    if days != sorted(days, reverse=True):
        raise ConfigurationError("CHANGELOG.md: the newest version is not the first one.", next_command=_NEXT)
    return [Section(name, day, "\n".join(lines).strip()) for name, day, lines in found]


def section_to_release(text: str, version: str) -> Section:
    """Return the section of the version that is about to be released.

    Raises:
        ConfigurationError: The top section is another version's, is empty, or changes are still under Unreleased.
    """
    sections = parse(text)
    if sections and sections[0].name == "Unreleased":
        if sections[0].text:
            raise ConfigurationError(
                "CHANGELOG.md still has changes under Unreleased.",
                next_command=f"move them under '## [{version}] - YYYY-MM-DD', or set a new version in pyproject.toml",
            )
        del sections[0]
    if not sections or sections[0].name != version:
        top = sections[0].name if sections else "no version"
        raise ConfigurationError(
            f"pyproject.toml has version {version}, and the newest in CHANGELOG.md is {top}.",
            next_command="make them the same, and commit that",
        )
    if not sections[0].text:
        raise ConfigurationError(
            f"CHANGELOG.md says nothing about {version}.", next_command="write what it adds, changes and fixes"
        )
    return sections[0]


def _date(name: str, text: str | None, number: int) -> date | None:
    if name == "Unreleased":
        if text is not None:
            raise _error(number, "what is not released has no date")
        return None
    try:
        return date.fromisoformat(text or "")
    except ValueError:
        raise _error(number, f"version {name} needs the day of its release, YYYY-MM-DD, not {text!r}") from None


def _error(number: int, problem: str) -> ConfigurationError:
    return ConfigurationError(f"CHANGELOG.md:{number}: {problem}.", next_command=_NEXT)
