"""What preflight's program sees of a model that containers may not read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from yrpd.deploying.preflight import survey_program
from yrpd.deploying.preflight.findings import incomplete_model

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


def test_a_model_that_can_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert list(incomplete_model("host1", "/models/m", survey_program.files(str(tmp_path)), None, "copy it")) == []
