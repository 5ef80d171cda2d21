"""A Python environment as files of an image layer: wheels unpacked straight into the layer's archive.

Nothing is written to disk on the way but compiled files, which are kept beside the prepared wheels: gigabytes go once
through this process, from the wheels to the engine. What the files are is the wheel format's business (PEP 427), which
the ``installer`` library knows.
"""

from __future__ import annotations

import contextlib
import platform
import posixpath
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from installer import install
from installer.destinations import WheelDestination
from installer.exceptions import InstallerError
from installer.records import RecordEntry, parse_record_file
from installer.scripts import Script
from installer.sources import WheelFile
from installer.utils import Scheme, construct_record_file, fix_shebang

from yrpd.building.context import Context
from yrpd.building.prepared import provide_made
from yrpd.errors import BuildError
from yrpd.project import Project
from yrpd.wheels.wheelfile import EPOCH, record_row
from yrpd.wheels.wheelhouse import PYTHON_VERSION, Wheel

if TYPE_CHECKING:
    from installer.scripts import ScriptSection

PYTHON = "/usr/bin/python3"  # the base's own, which every environment stands on
VERSION = "python{}.{}".format(*PYTHON_VERSION)
PYVENV = "home = /usr/bin\ninclude-system-site-packages = false\nversion = {}.{}\n".format(*PYTHON_VERSION)
COMPILERS = 2
# Raise it whenever the same wheels become other files.
RECIPE = 1


def environment_recipe() -> dict[str, str]:
    """Return what decides the files besides the wheels; the compiler's version, since its output may differ."""
    return {"recipe": str(RECIPE), "compiler": platform.python_version()}


class _Destination(WheelDestination):
    """Puts one wheel's files into a context; what need not be rewritten stays in the wheel until it is sent."""

    def __init__(self, context: Context, prefix: str, archive: zipfile.ZipFile, source: WheelFile) -> None:
        self.context = context
        self.prefix = prefix
        self.archive = archive
        self.modules: list[tuple[str, str]] = []
        packages = f"{prefix}/lib/{VERSION}/site-packages"
        self.folders = {"purelib": packages, "platlib": packages, "scripts": f"{prefix}/bin", "data": prefix}
        self.folders["headers"] = f"{prefix}/include/site/{VERSION}/{source.distribution}"
        rows = parse_record_file(source.read_dist_info("RECORD").splitlines())
        self.recorded = {row[0]: RecordEntry.from_elements(*row) for row in rows}

    def write_script(self, name: str, module: str, attr: str, section: ScriptSection) -> RecordEntry:
        file, data = Script(name, module, attr, section).generate(f"{self.prefix}/bin/python3", "posix")
        return self._held("scripts", file, data, executable=True)

    def write_file(
        self, scheme: Scheme, path: str | PathLike[str], stream: BinaryIO, is_executable: bool
    ) -> RecordEntry:
        inside = str(path)
        if scheme == "scripts":
            with fix_shebang(stream, f"{self.prefix}/bin/python3") as fixed:
                return self._held(scheme, inside, fixed.read(), executable=True)
        if not isinstance(stream, zipfile.ZipExtFile):
            return self._held(scheme, inside, stream.read(), executable=is_executable)
        info = self.archive.getinfo(str(stream.name))
        target = f"{self.folders[scheme]}/{inside}"
        opener = cast("partial[BinaryIO]", partial(self.archive.open, info))
        self.context.add_stream(target.lstrip("/"), info.file_size, opener, executable=is_executable)
        if scheme in ("purelib", "platlib") and inside.endswith(".py"):
            self.modules.append((info.filename, target))
        known = self.recorded.get(info.filename)
        return RecordEntry(inside, known.hash_, known.size) if known else RecordEntry(inside, None, None)

    def finalize_installation(
        self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]
    ) -> None:
        packages = self.folders[scheme]
        up = {
            name: f"{posixpath.relpath(folder, packages)}/"
            for name, folder in self.folders.items()
            if folder != packages
        }
        with construct_record_file(records, lambda one: up.get(str(one))) as stream:
            self._held(scheme, record_file_path, stream.read(), executable=False)

    def _held(self, scheme: str, path: str, data: bytes, *, executable: bool) -> RecordEntry:
        self.context.add_bytes(f"{self.folders[scheme]}/{path}".lstrip("/"), data, executable=executable)
        return RecordEntry.from_elements(*record_row(path, data))


def add_environment(
    context: Context, prefix: str, wheels: Sequence[Wheel], project: Project, opened: contextlib.ExitStack
) -> None:
    """Add a virtual environment with these wheels to a layer's files.

    Args:
        context: The layer's files.
        prefix: The environment's folder in the image.
        wheels: What is installed; where two bring the same file, the last one by name has it.
        project: The checkout, which knows where compiled files are kept.
        opened: Keeps the wheels open until the layer was sent.

    Raises:
        BuildError: A wheel is not one, or its modules could not be compiled.
    """
    inside = prefix.lstrip("/")
    context.add_bytes(f"{inside}/pyvenv.cfg", PYVENV.encode())
    context.add_link(f"{inside}/lib64", "lib")
    for name, target in (("python", PYTHON), ("python3", "python"), (VERSION, "python")):
        context.add_link(f"{inside}/bin/{name}", target)
    jobs = []
    for one in sorted(wheels, key=lambda one: one.name):
        archive = opened.enter_context(zipfile.ZipFile(one.path))
        try:
            destination = _Destination(context, prefix, archive, source := WheelFile(archive))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of compiled files in wheels, which are left out
                install(source, destination, {"INSTALLER": b"yrpd\n"})
        except (InstallerError, KeyError, ValueError) as error:
            message = f"{one.file} cannot be installed: {error}."
            raise BuildError(message, next_command=f"unzip -l {one.path}") from error
        jobs.append((one, destination.modules))
    with ThreadPoolExecutor(COMPILERS) as pool:
        # The largest first, so that the last one to end is a small one.
        order = sorted(jobs, key=lambda job: -len(job[1]))
        compiled = {one.name: pool.submit(_compiled, project, prefix, one, modules) for one, modules in order}
    for one, _ in jobs:
        archive = opened.enter_context(zipfile.ZipFile(compiled[one.name].result()))
        for info in archive.infolist():
            context.add_stream(info.filename, info.file_size, partial(archive.open, info))


def _compiled(project: Project, prefix: str, one: Wheel, modules: Sequence[tuple[str, str]]) -> Path:
    """Return the archive of a wheel's compiled modules, made now unless it is kept.

    They are of the kind that Python never compares with their source (PEP 552), so that no time is in them.
    """

    def compiled(published: Path, target: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(published) as wheel:
            for member, path in modules:
                module = Path(scratch, path.lstrip("/"))
                module.parent.mkdir(parents=True, exist_ok=True)
                module.write_bytes(wheel.read(member))
            options = ["-qq", "-s", scratch, "-p", "/", "--invalidation-mode", "unchecked-hash"]
            command = [sys.executable, "-I", "-W", "ignore", "-m", "compileall", *options, scratch]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            # It ends with 1 when a module does not compile, as test data in wheels may not; that one is left out.
            if done.returncode not in (0, 1) or done.stderr:
                message = f"{one.file} could not be compiled: {done.stderr.strip() or f'status {done.returncode}'}."
                raise BuildError(message, next_command="invoke image --flavour cpu")
            with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
                for file in sorted(Path(scratch).rglob("*.pyc")):
                    archive.writestr(zipfile.ZipInfo(file.relative_to(scratch).as_posix(), EPOCH), file.read_bytes())

    recipe = {"prefix": prefix, **environment_recipe()}
    return provide_made(project, one, recipe, compiled, file=f"{one.name}.pyc.zip").path
