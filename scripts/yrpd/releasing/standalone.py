"""``deploy.pyz``: the deployment commands with all that they import, so that a host needs nothing but a Python.

A zip that Python runs. It holds this package's deploying part and, for every Python and machine in `TARGETS`, locked
wheels as they were published; compiled modules cannot be imported out of a zip, so the first run unpacks what its
Python needs.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping

from yrpd.documents.inputs import digest_of
from yrpd.documents.manifest import Standalone
from yrpd.documents.release_folder import STANDALONE
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.wheels.locks import DEPLOY, read_lock
from yrpd.wheels.wheelfile import EPOCH, EXECUTABLE, MODE
from yrpd.wheels.wheelhouse import Target, Wheel, provide

# The Python that the project itself needs, and the two after it; glibc of the oldest systems that still have them.
TARGETS = tuple(Target(machine, (3, minor), (2, 28)) for machine in ("x86_64", "aarch64") for minor in (11, 12, 13))
# The deployment commands and what they import: nothing that patches, builds or releases.
CARRIED = (
    *(f"{name}.py" for name in ("__init__", "cli", "errors", "options", "project", "release", "reporting", "tables")),
    "toml_lines.py",
    *(f"commands/{name}.py" for name in ("__init__", "deploy", "front", "image_sources")),
    "deploying/**/*.py",
    "docker/*.py",
    *(f"documents/{name}.py" for name in ("__init__", "image_record", "manifest", "release_folder")),
    *(f"releasing/{name}.py" for name in ("__init__", "archive", "image_load")),
    *(f"serving/{name}.py" for name in ("__init__", "cluster", "command_lines", "draining", "envoy", "pairing")),
    *(f"tasks/{name}.py" for name in ("__init__", "deploy")),
)
MAIN = "commands/standalone_main.py"
SHEBANG = b"#!/usr/bin/env python3\n"


def make_standalone(project: Project, reporter: Reporter) -> tuple[bytes, Standalone]:
    """Return ``deploy.pyz`` of this checkout, and what the manifest says of it.

    Args:
        project: The checkout.
        reporter: Says what is downloaded.

    Raises:
        PinMismatchError: A wheel is not the locked one.
        EnvironmentFailure: A wheel is missing and the package index does not answer.
    """
    lock = read_lock(project.docker / f"{DEPLOY}.lock")
    wheels = {target: provide(project, lock, reporter, target) for target in TARGETS}
    data = render(sources(project), (project.code / MAIN).read_bytes(), wheels)
    described = Standalone(
        file=STANDALONE,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        targets=tuple(name_of(target) for target in TARGETS),
    )
    return data, described


def sources(project: Project) -> dict[str, bytes]:
    """Return the product's modules that go into the archive, by their names there."""
    files = {path for pattern in CARRIED for path in project.code.glob(pattern)}
    return {f"yrpd/{path.relative_to(project.code).as_posix()}": path.read_bytes() for path in sorted(files)}


def name_of(target: Target) -> str:
    """Return a target's name as the archive's main program computes it."""
    return f"cp{target.python[0]}{target.python[1]}-{target.machine}"


def render(modules: Mapping[str, bytes], main: bytes, wheels: Mapping[Target, Iterable[Wheel]]) -> bytes:
    """Return the archive's bytes; the same modules and wheels give the same on every machine.

    Args:
        modules: This package's modules, by their names in the archive.
        main: The module that is run.
        wheels: The wheels of each Python.
    """
    paths = {f"wheels/{one.file}": one.path for every in wheels.values() for one in every}
    targets = {name_of(target): sorted(f"wheels/{one.file}" for one in every) for target, every in wheels.items()}
    held = {name: hashlib.sha256(data).hexdigest() for name, data in modules.items()}
    held |= {f"wheels/{one.file}": one.sha256 for every in wheels.values() for one in every}
    index = {"digest": digest_of(held), "targets": targets}
    small = {**modules, "__main__.py": main, "contents.json": json.dumps(index, indent=1, sort_keys=True).encode()}
    stream = io.BytesIO()
    stream.write(SHEBANG)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted({*small, *paths}):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3
            entry.external_attr = EXECUTABLE if name == "__main__.py" else MODE
            # Wheels are compressed already.
            entry.compress_type = zipfile.ZIP_STORED if name in paths else zipfile.ZIP_DEFLATED
            archive.writestr(entry, small[name] if name in small else paths[name].read_bytes())
    return stream.getvalue()
