"""The tiny models are kept as long as they are whole, and made by nothing but the recipe."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from workshop.models import ensure_models, image_files, model_python, models_folder
from yrpd.errors import BuildError
from yrpd.project import Project
from yrpd.reporting import Reporter

MAKER = """
import sys
from pathlib import Path
out = Path(sys.argv[2])
for name in ("qwen2", "qwen2_wide", "qwen2_5_vl", "images"):
    (out / name).mkdir()
    (out / name / "a.png").write_text(name)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A checkout with a recipe that needs no torch."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "make_models.py").write_text(MAKER)
    (tmp_path / "scripts" / "corpus.txt").write_text("text")
    python = tmp_path / "build" / "pin" / "venv-cpu" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return Project(tmp_path)


def state(project: Project) -> str:
    return str(ensure_models(project, Reporter(as_json=True), "pin")["state"])


def test_models_are_made_once_and_then_kept(project: Project) -> None:
    assert state(project) == "made"
    assert [path.name for path in image_files(project)] == ["a.png"]
    assert state(project) == "kept"
    assert {path.name for path in models_folder(project).iterdir()} == {
        "qwen2",
        "qwen2_wide",
        "qwen2_5_vl",
        "images",
        "manifest.json",
    }
    assert {path.name for path in project.build.iterdir()} == {"models", "pin"}


def test_a_changed_recipe_or_a_damaged_missing_or_added_file_makes_them_anew(project: Project) -> None:
    assert state(project) == "made"
    weights = models_folder(project) / "qwen2" / "a.png"
    for damage in (
        lambda: weights.write_text("other"),
        weights.unlink,
        lambda: (weights.parent / "extra").write_text(""),
        lambda: shutil.rmtree(weights.parent),
        lambda: (models_folder(project) / "manifest.json").write_text("{"),
        lambda: (models_folder(project) / "manifest.json").write_text("[]"),
        lambda: (project.root / "scripts" / "corpus.txt").write_text("other text"),
    ):
        damage()
        assert state(project) == "made"
        assert weights.read_text() == "qwen2"
        assert state(project) == "kept"


def test_without_a_build_nothing_is_made_and_it_says_why(project: Project) -> None:
    model_python(project, "pin").unlink()
    document = ensure_models(project, Reporter(as_json=True), "pin")
    assert document["state"] == "skipped"
    assert "venv-cpu" in document["reasons"][-1]


def test_a_failed_attempt_leaves_the_models_as_they_were(project: Project) -> None:
    assert state(project) == "made"
    (project.root / "scripts" / "make_models.py").write_text("import no_such_module")
    with pytest.raises(BuildError, match="no_such_module"):
        state(project)
    assert (models_folder(project) / "qwen2" / "a.png").exists()
    (project.root / "scripts" / "make_models.py").write_text(MAKER)
    assert state(project) == "kept"
