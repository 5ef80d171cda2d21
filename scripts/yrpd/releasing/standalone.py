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
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path

from yrpd.documents.manifest import Manifest, Standalone, read_manifest
from yrpd.documents.release_folder import LICENCES_DEPLOY, STANDALONE, ReleaseFolder
from yrpd.project import Project
from yrpd.releasing.list_packages import licence_of
from yrpd.releasing.saving import record
from yrpd.releasing.texts import UNKNOWN, table
from yrpd.reporting import Reporter
from yrpd.wheels.locks import DEPLOY, Lock, read_lock
from yrpd.wheels.wheelfile import EPOCH, EXECUTABLE, MODE
from yrpd.wheels.wheelhouse import Stored, Target, provide_each

# The Python that the project itself needs, and the two after it; glibc of the oldest systems that still have them.
TARGETS = tuple(Target(machine, (3, minor), (2, 28)) for machine in ("x86_64", "aarch64") for minor in (11, 12, 13))
# What the deployment commands import of this package, besides its own modules.
PACKAGES = ("commands", "deploying", "docker", "documents", "releasing", "serving", "tasks")
MAIN = Path(__file__).resolve().parents[1] / "commands" / "standalone_main.py"
SHEBANG = b"#!/usr/bin/env python3\n"


@dataclass(frozen=True)
class Contents:
    """What goes into the archive.

    Attributes:
        sources: This package's files, by name in the archive.
        lock: The wheels' lock.
    """

    sources: Mapping[str, bytes]
    lock: Lock

    @property
    def digest(self) -> str:
        """sha256 over everything that decides the archive's bytes."""
        digest = hashlib.sha256(f"{self.lock.sha256}\n{' '.join(map(str, TARGETS))}\n".encode())
        for name, data in sorted(self.sources.items()):
            digest.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
        return digest.hexdigest()


def contents(project: Project) -> Contents:
    """Return what this checkout would put into the archive."""
    package = Path(__file__).resolve().parents[1]
    files = [*package.glob("*.py"), *(path for name in PACKAGES for path in (package / name).rglob("*.py"))]
    sources = {f"yrpd/{path.relative_to(package).as_posix()}": path.read_bytes() for path in files}
    return Contents(sources, read_lock(project.docker / f"{DEPLOY}.lock"))


def provide_standalone(project: Project, folder: ReleaseFolder, reporter: Reporter) -> Manifest:
    """Put ``deploy.pyz`` and the licences of what it carries into a release folder, unless this checkout's are there.

    Args:
        project: The checkout.
        folder: The release.
        reporter: Says what is done.

    Raises:
        PinMismatchError: A wheel is not the locked one.
        EnvironmentFailure: A wheel is missing and the package index does not answer.
        ImageError: The folder cannot be written.
    """
    manifest, wanted = read_manifest(folder), contents(project)
    path = folder.path / STANDALONE
    if manifest.deploy and manifest.deploy.inputs_digest == wanted.digest and path.is_file():
        return manifest
    with reporter.step(f"{STANDALONE} for hosts without a checkout"):
        wheels = provide_each(project, wanted.lock, reporter, TARGETS)
        data = render(wanted, wheels)
        made = Standalone(
            file=STANDALONE,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            inputs_digest=wanted.digest,
            targets=tuple(name_of(target) for target in TARGETS),
        )
        files = {STANDALONE: data, LICENCES_DEPLOY: render_licences(manifest.release, wheels[TARGETS[0]])}
        return record(folder, manifest.model_copy(update={"deploy": made}), files)


def name_of(target: Target) -> str:
    """Return a target's name as the archive's main program computes it."""
    return f"cp{target.python[0]}{target.python[1]}-{target.machine}"


def render(wanted: Contents, wheels: Mapping[Target, Iterable[Stored]]) -> bytes:
    """Return the archive's bytes; the same wheels and sources give the same on every machine."""
    index = {
        "digest": wanted.digest,
        "targets": {
            name_of(target): sorted(f"wheels/{one.wheel.file}" for one in every) for target, every in wheels.items()
        },
    }
    paths = {f"wheels/{one.wheel.file}": one.path for every in wheels.values() for one in every}
    small = {
        **wanted.sources,
        "__main__.py": MAIN.read_bytes(),
        "contents.json": json.dumps(index, indent=1, sort_keys=True).encode(),
    }
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


def render_licences(release: str, wheels: Iterable[Stored]) -> bytes:
    """Return the licences of the packages in the archive, as each package's metadata states its own."""
    rows = [[one.wheel.name, one.wheel.version, _licence(one.path)] for one in wheels]
    parts = [
        f"# Licences of what {STANDALONE} of {release} carries",
        "What each package's own metadata says; nothing here is a legal judgement. Their texts are in the wheels.",
        table(("package", "version", "licence"), sorted(rows)),
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _licence(path: Path) -> str:
    with zipfile.ZipFile(path) as wheel:
        (name,) = (one for one in wheel.namelist() if one.endswith(".dist-info/METADATA") and one.count("/") == 1)
        headers = BytesHeaderParser().parsebytes(wheel.read(name))
    return licence_of(headers["License-Expression"], headers["License"], headers.get_all("Classifier")) or UNKNOWN
