"""The tiny models come out the same, byte for byte, every time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from workshop.models import digests, model_python
from yrpd.project import Project
from yrpd.release import load_release


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    project = Project.here()
    python = model_python(project, load_release(project.release_file).pin()[0])
    if not python.exists():
        pytest.fail("needs the environment that `invoke build --flavour cpu` makes")
    script = project.root / "scripts" / "make_models.py"
    made = [tmp_path / name for name in ("once", "again")]
    for folder in made:
        subprocess.run([python, script, "--out", folder], check=True, capture_output=True)
    first, second = map(digests, made)
    assert first == second
    assert {"qwen2/model.safetensors", "qwen2_5_vl/model.safetensors", "images/rings.png"} <= first.keys()
    assert first["images/rings.png"] != first["images/stripes.png"]
