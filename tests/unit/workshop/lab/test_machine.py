"""What a machine must have before a lab is begun."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workshop.lab import machine
from yrpd.errors import EnvironmentFailure


def test_missing_programs_are_named_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "_SYSTEM_FOLDERS", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    for present in machine.PACKAGES.keys() - {"dockerd", "ip"}:
        (tmp_path / present).write_text("#!/bin/sh\n")
        (tmp_path / present).chmod(0o755)
    with pytest.raises(EnvironmentFailure, match=r"Not installed here: dockerd, ip \(Debian: docker.io iproute2\)"):
        machine.require(machine.PACKAGES, "invoke lab.up")


def test_an_ordinary_user_is_told_to_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EnvironmentFailure, match="needs root") as failure:
        machine.require((), "invoke lab.up")
    assert (failure.value.exit_code, failure.value.next_command) == (8, "sudo invoke lab.up")


def test_a_failed_command_is_told_with_its_own_words() -> None:
    with pytest.raises(EnvironmentFailure, match=r"`sh -c echo why >&2; exit 3` failed: why\."):
        machine.run(("sh", "-c", "echo why >&2; exit 3"))
