"""What preflight's program sees of a model: which files count, and those that containers may not read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from yrpd.deploying.preflight import survey_program
from yrpd.deploying.preflight.findings import incomplete_model
from yrpd.deploying.preflight.fingerprints import fingerprint

NOBODY = 65534


def seen_by_another_user(folder: Path) -> dict[str, Any]:
    """Return the files that the program reports; root reads everything, so root is somebody else meanwhile."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(NOBODY)
    try:
        return dict(survey_program.files(str(folder)))
    finally:
        os.seteuid(own)


def test_a_folder_that_cannot_be_read_is_a_finding_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    folder.chmod(0o000)
    try:
        files = seen_by_another_user(folder)
    finally:
        folder.chmod(0o755)
    (found,) = incomplete_model("host1", "/models/m", files, None, "copy it")
    assert found.id == "model-unreadable"
    assert "Permission denied" in found.problem
    assert "chcon -Rt container_file_t /models/m" in found.fix


def test_a_model_that_can_be_read_and_has_weights_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (found,) = incomplete_model("host1", "/models/m", survey_program.files(str(tmp_path)), None, "copy it")
    assert found.problem == "the model folder /models/m has no weights (.safetensors, .bin, .pt, .gguf)"
    (tmp_path / "model.bin").write_text("weights")
    assert list(incomplete_model("host1", "/models/m", survey_program.files(str(tmp_path)), None, "copy it")) == []


def fingerprint_of(folder: Path) -> str:
    return fingerprint({"/m": survey_program.files(str(folder))})


def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "adapter").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "merges.txt", "a.pt", "b.bin", "adapter/adapter_model.safetensors"):
        (folder / name).write_bytes(b"content")
    (folder / "1.safetensors").write_bytes(bytes(9 << 20))
    return folder


def test_times_of_files_and_what_no_engine_loads_are_no_other_model(tmp_path: Path) -> None:
    folder = model(tmp_path)
    before = fingerprint_of(folder)
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    for name in (
        ".git/index",
        ".cache/huggingface/x.metadata",
        "logs/a.json",
        "__pycache__/m.pyc",
        "x.lock",
        "README.md",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("new")
    os.mkfifo(folder / "pipe.json")
    assert fingerprint_of(folder) == before != ""


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "merges.txt", "a.pt", "b.bin", "adapter/adapter_model.safetensors"]
)
def test_a_byte_of_any_file_that_engines_load_is_another_model(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path)
    before = fingerprint_of(folder)
    (folder / name).write_bytes(b"Content")
    assert fingerprint_of(folder) not in (before, "")


def test_one_tensor_in_the_middle_of_large_weights_is_another_model(tmp_path: Path) -> None:
    folder = model(tmp_path)
    before = fingerprint_of(folder)
    with (folder / "1.safetensors").open("r+b") as weights:
        weights.seek(4 << 20)
        weights.write(b"1" * 40_000)
    assert fingerprint_of(folder) != before


def test_a_link_that_leads_to_another_adapter_is_another_model_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    folder = model(tmp_path)
    for version in ("v1", "v2"):
        (folder / version).mkdir()
        (folder / version / "adapter_model.bin").write_text(version)
    (folder / "now").symlink_to("v1")
    (folder / "v1" / "up").symlink_to("..")
    before = fingerprint_of(folder)
    (folder / "now").unlink()
    (folder / "now").symlink_to("v2")
    assert fingerprint_of(folder) not in (before, "")


def test_what_cannot_be_read_for_the_moment_is_not_known_and_a_link_to_nothing_is() -> None:
    good: list[object] = [7, "d" * 64]
    known = fingerprint({"/m": {"a": good, "b": [0, os.strerror(errno.ENOENT)]}})
    assert len(known) == 64
    assert known != fingerprint({"/m": {"a": good}})
    assert fingerprint({"/m": {"a": good, "b": [0, os.strerror(errno.EIO)]}}) == ""
    assert fingerprint({"/m": {}}) == ""
