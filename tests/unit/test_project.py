"""State files: whole or not there, one section a stage."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from yrpd.errors import EnvironmentFailure
from yrpd.project import Project, exclusive, read_state, update_state, write_json


def test_each_stage_keeps_its_own_section(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert read_state(project, "v1") == {}
    update_state(project, "v1", "patch", {"tree": "a"})
    update_state(project, "v1", "build-cpu", {"python": "b"})
    update_state(project, "v1", "patch", {"tree": "c"})
    assert read_state(project, "v1") == {"patch": {"tree": "c"}, "build-cpu": {"python": "b"}}


def test_stages_that_record_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path)

    def record(stage: str) -> None:
        for number in range(30):
            update_state(project, "v1", stage, {"number": number})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(record, "abcd"))
    assert read_state(project, "v1") == {stage: {"number": 29} for stage in "abcd"}


def test_two_builds_of_a_pin_do_not_run_at_the_same_time_and_two_pins_do(tmp_path: Path) -> None:
    project = Project(tmp_path)
    with exclusive(project, "v1", "build"), exclusive(project, "v2", "build"):
        with (
            pytest.raises(EnvironmentFailure, match=rf"process {os.getpid()}\) is working on v1") as caught,
            exclusive(project, "v1", "build", patience_s=0),
        ):
            pass
        assert (caught.value.next_command or "").startswith(f"ps -fp {os.getpid()}")
    with exclusive(project, "v1", "build", patience_s=0):
        pass


def test_a_document_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"kept": True})
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()})
    assert json.loads(path.read_text()) == {"kept": True}
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_can_be_shared_between_checkouts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("YRPD_CACHE", raising=False)
    assert Project(tmp_path).cache == tmp_path / "build" / "cache"
    monkeypatch.setenv("YRPD_CACHE", "/var/cache/yrpd")
    assert Project(tmp_path).cache == Path("/var/cache/yrpd")
