"""Files that are made here out of published wheels, kept beside the downloads by what they are made from."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from yrpd.documents.inputs import digest_of
from yrpd.project import Project, hash_file, write_json
from yrpd.wheels.wheelhouse import Wheel


def provide_made(
    project: Project,
    source: Wheel,
    recipe: Mapping[str, str],
    make: Callable[[Path, Path], None],
    *,
    file: str = "",
    name: str = "",
) -> Wheel:
    """Return a file that is made out of a published wheel: an earlier one when it is whole, else a new one.

    Args:
        project: The checkout, which knows where such files are kept.
        source: The published wheel.
        recipe: What decides the content besides that wheel.
        make: Gets the published wheel's path and the new file's, which appears in its place when it is complete.
        file: The new file's name; that of the wheel with this project's build tag when empty.
        name: Which distribution it is of; the published wheel's when empty.
    """
    file = file or with_build_tag(source.file, "1yrpd")
    folder = project.cache / "made" / digest_of({"source": source.sha256, **recipe})
    path, record = folder / file, folder / "made.json"
    sha256 = ""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        sha256 = str(json.loads(record.read_text(encoding="utf-8"))["sha256"])
    if not sha256 or not path.exists() or hash_file(path) != sha256:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fresh = Path(scratch) / file
            make(source.path, fresh)
            sha256 = hash_file(fresh)
            os.replace(fresh, path)
        write_json(record, {"sha256": sha256})
    return Wheel(name or source.name, source.version, sha256, path)


def with_build_tag(file: str, tag: str) -> str:
    """Return a wheel's file name with a build tag, which says that it is not the published one (PEP 427)."""
    name, version, *rest = file.removesuffix(".whl").split("-")
    return "-".join([name, version, tag, *rest[-3:]]) + ".whl"
