"""The tiny models for machines without a model hub: made once by ``scripts/make_models.py``, kept while they are whole.

A model folder of the user's own needs none of this; the hosts file names it instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yrpd.errors import BuildError
from yrpd.project import Project, read_state, write_json
from yrpd.reporting import Reporter

FOLDERS = ("qwen2", "qwen2_wide", "qwen2_5_vl", "images")
MANIFEST = "manifest.json"
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}


def models_folder(project: Project) -> Path:
    """Return where the models are: one folder for each model, one for the images to ask about."""
    return project.build / "models"


def image_files(project: Project) -> tuple[Path, ...]:
    """Return the images to ask about, in a fixed order."""
    return tuple(sorted((models_folder(project) / "images").glob("*.png")))


def ensure_models(project: Project, reporter: Reporter, pin: str) -> dict[str, Any]:
    """Make the models that are missing or damaged; keep them otherwise.

    Args:
        project: The checkout.
        reporter: Says what is done.
        pin: Its ``cpu`` build brings the Python that makes them.

    Returns:
        ``{state: "made" | "kept" | "skipped", folder, reasons}``. Skipped means that there is no such Python yet.

    Raises:
        BuildError: The models could not be made; the folders are as they were.
    """
    folder = models_folder(project)
    reasons = why_not_whole(folder, recipe_digest(project))
    document = {"folder": str(folder.relative_to(project.root)), "reasons": reasons}
    if not reasons:
        reporter.say(f"    models in {document['folder']}: kept")
        return {**document, "state": "kept"}
    python = model_python(project, pin)
    if not python.is_file():
        reporter.say(f"    models are not made: {python} does not exist yet; `invoke build --flavour cpu` makes it.")
        return {**document, "state": "skipped", "reasons": [*reasons, f"{python} does not exist"]}
    with reporter.step("make the tiny models"):
        _make(project, python, folder)
    return {**document, "state": "made"}


def why_not_whole(folder: Path, recipe: str) -> list[str]:
    """Return why the models have to be made; empty when they are as the manifest says and the recipe is the same.

    Args:
        folder: Where they are.
        recipe: The digest of what makes them.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["they were not made yet"]
    if not isinstance(manifest, dict) or manifest.get("recipe") != recipe:
        return ["the script that makes them changed"]
    expected, found = manifest.get("files"), digests(folder)
    if not isinstance(expected, dict):
        return ["their manifest is damaged"]
    changed = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return [f"{name} is not as it was made" for name in changed]


def digests(folder: Path) -> Mapping[str, str]:
    """Return the sha256 of every file of the models, by its path below the folder."""
    files = sorted(path for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def recipe_digest(project: Project) -> str:
    """Return the digest of what the models are made by."""
    digest = hashlib.sha256()
    for path in _recipe(project):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def model_python(project: Project, pin: str) -> Path:
    """Return the Python of the pin's ``cpu`` build."""
    recorded = read_state(project, pin).get("build-cpu", {}).get("python", "")
    return project.root / recorded if recorded else project.pin_build(pin) / "venv-cpu" / "bin" / "python"


def _recipe(project: Project) -> tuple[Path, Path]:
    scripts = project.root / "scripts"
    return scripts / "make_models.py", scripts / "corpus.txt"


def _make(project: Project, python: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=project.build, prefix=".models.") as scratch:
        made = Path(scratch)
        script, corpus = _recipe(project)
        done = subprocess.run(
            [str(python), str(script), "--out", str(made), "--corpus", str(corpus)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **_QUIET},
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise BuildError(
                f"The models could not be made: {said[-1] if said else f'exit status {done.returncode}'}.",
                next_command="invoke build --flavour cpu",
                detail=done.stderr[-4000:],
            )
        manifest = {"recipe": recipe_digest(project), "files": digests(made)}
        # The manifest goes first and comes last: while folders are exchanged, nothing vouches for them.
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in FOLDERS:
            _exchange(made / name, folder / name, made / f"{name}.before")
    write_json(folder / MANIFEST, manifest)


def _exchange(new: Path, place: Path, aside: Path) -> None:
    if place.exists():
        place.rename(aside)
    new.rename(place)
    shutil.rmtree(aside, ignore_errors=True)
