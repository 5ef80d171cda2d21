"""The changelog as a release needs it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from workshop.publishing.changelog import parse, section_to_release
from yrpd.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[4]
GOOD = """\
# Changelog

## [Unreleased]

## [0.2.0] - 2026-11-26

### Added

- A thing.

## [0.1.0] - 2026-01-02

- The first.
"""


def test_sections_have_name_day_and_text() -> None:
    assert [(one.name, one.date, one.text) for one in parse(GOOD)] == [
        ("Unreleased", None, ""),
        ("0.2.0", date(2026, 11, 26), "### Added\n\n- A thing."),
        ("0.1.0", date(2026, 1, 2), "- The first."),
    ]


def test_the_newest_version_is_what_is_released() -> None:
    assert section_to_release(GOOD, "0.2.0").text == "### Added\n\n- A thing."


@pytest.mark.parametrize(
    ("old", "new", "version", "words"),
    [
        ("## [Unreleased]\n", "## [Unreleased]\n\n- More.\n", "0.2.0", "still has changes under Unreleased"),
        ("", "", "0.3.0", r"has version 0\.3\.0, and the newest in CHANGELOG\.md is 0\.2\.0"),
        (" - 2026-11-26", "", "0.2.0", r"CHANGELOG\.md:5: version 0\.2\.0 needs the day"),
        ("2026-11-26", "2026-13-26", "0.2.0", "needs the day of its release"),
        ("2026-11-26", "2025-11-26", "0.2.0", "newest version is not the first"),
        ("### Added", "### News", "0.2.0", r"CHANGELOG\.md:7: '### News' is unknown"),
        ("### Added", "### Added\n\n### Added", "0.2.0", "there twice"),
        ("## [0.2.0]", "## 0.2.0", "0.2.0", "is neither"),
        ("### Added\n\n- A thing.\n", "", "0.2.0", r"says nothing about 0\.2\.0"),
    ],
)
def test_what_is_not_ready_is_named(old: str, new: str, version: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        section_to_release(GOOD.replace(old, new, 1), version)


def test_this_projects_own_changelog_is_of_the_form() -> None:
    names = [one.name for one in parse((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))]
    assert names[0] == "Unreleased"
    assert "0.2.0" in names
