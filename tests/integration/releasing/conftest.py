"""A release in miniature: a small series, an image with a Python and the patched tree in it, its release folder."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker import DockerClient
from rich.console import Console

from tests.integration.images import remove_images
from tests.integration.patching.conftest import add_series, make_tiny
from yrpd.building.assembly import file_part
from yrpd.building.context import Context
from yrpd.building.cpu_image import release_labels
from yrpd.building.image_engine import ImageEngine
from yrpd.building.layers import Layer
from yrpd.building.record import write_record
from yrpd.documents.image_record import read_record, record_file
from yrpd.documents.manifest import Manifest, read_manifest
from yrpd.documents.patched import Patched, archive, load_patched
from yrpd.documents.release_folder import ReleaseFolder
from yrpd.project import Project, write_json
from yrpd.releasing.making import provide_release
from yrpd.reporting import Reporter

DOCKERFILE = "ARG BASE\nFROM ${BASE}\nLABEL yrpd.stage=cpu\nCOPY vllm-ascend /vllm-workspace/vllm-ascend\n"
# What an interpreter does without.
LEFT_OUT = (
    "test",
    "idlelib",
    "tkinter",
    "lib2to3",
    "ensurepip",
    "site-packages",
    "turtledemo",
    "__pycache__",
    "pydoc_data",
)


def quiet() -> Reporter:
    """A reporter that keeps what it says."""
    reporter = Reporter(verbose=True)
    reporter.console = Console(file=io.StringIO(), width=300)
    return reporter


def libraries(binaries: list[Path]) -> set[Path]:
    """The shared libraries that binaries load."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True)
    words = [line.split() for line in done.stdout.splitlines()]
    return {Path(word) for line in words for word in line if word.startswith("/") and not word.endswith(":")}


def write_python_root(path: Path) -> None:
    """Write a root with this machine's Python and nothing else."""
    program = Path(sys.executable).resolve()
    standard = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
    extensions = sorted((standard / "lib-dynload").glob("*.so"))

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(info.name).parts
        return None if any(part in LEFT_OUT or part.startswith("config-") for part in parts) else info

    with tarfile.open(path, "w", dereference=True) as tar:
        tar.add(program, arcname=str(program))
        tar.add(standard, arcname=str(standard), filter=wanted)
        for library in sorted(libraries([program, *extensions])):
            tar.add(library, arcname=str(library))
        link = tarfile.TarInfo("usr/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(program)
        tar.addfile(link)
        # An engine knows an image of the same files again: no two modules' images may be one.
        unique = tarfile.TarInfo("unique")
        unique.size = len(name := uuid.uuid4().hex.encode())
        tar.addfile(unique, io.BytesIO(name))


@dataclass(frozen=True)
class Released:
    """A project whose image is on the engine and has a release folder."""

    project: Project
    patched: Patched
    client: DockerClient
    folder: ReleaseFolder
    repository: str

    @property
    def manifest(self) -> Manifest:
        """What the folder's manifest says now."""
        return read_manifest(self.folder)

    def copy(self, target: Path) -> Released:
        """Return the same release with a folder of its own, to be broken."""
        project = Project(target / "project")
        shutil.copytree(self.project.root, project.root, symlinks=True)
        return Released(
            project, self.patched, self.client, ReleaseFolder(project.dist / self.folder.name), self.repository
        )

    def derive(self, dockerfile: str, **files: str) -> str:
        """Build another image on the release's, and return its name."""
        context = Context()
        context.add_bytes("Dockerfile", f"FROM {self.manifest.image}\nLABEL yrpd.stage=x\n{dockerfile}\n".encode())
        for name, text in files.items():
            context.add_bytes(name, text.encode())
        layer = Layer("cpu", self.repository, "derived-", {"id": uuid.uuid4().hex}, self.manifest.config.labels)
        engine = ImageEngine(self.client, quiet(), self.project.build / "derive.log")
        engine.build(layer, context, "Dockerfile", {})
        return layer.image

    def restore(self) -> None:
        """Give the release's image its name back, after a test took it away."""
        repository, _, tag = self.manifest.image.rpartition(":")
        self.client.images.get(self.manifest.id).tag(repository, tag)


@pytest.fixture(scope="module")
def released(client: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Released]:
    """The release; its images go with the module."""
    repository = f"yrpd-test-{uuid.uuid4().hex[:12]}"
    folder = tmp_path_factory.mktemp("release")
    with pytest.MonkeyPatch.context() as patch:
        project = add_series(make_tiny(folder, patch)).project
    here = Project.here()
    shutil.copytree(here.code, project.code, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(here.docker, project.docker)
    shutil.copy(here.tools_lock, project.tools_lock)
    release, patched = load_patched(project)
    engine = ImageEngine(client, quiet(), project.build / "image.log")
    base = Layer("base", repository, "base-", {"root": "python"}, {})
    write_python_root(folder / "root.tar")
    try:
        engine.assemble(base, [file_part(folder / "root.tar", "Python")], {})
        context = Context()
        context.add_archive("vllm-ascend", archive(patched))
        context.add_bytes("Dockerfile", DOCKERFILE.encode())
        inputs = {"context": context.digest, "series": patched.series_digest, "patched tree": patched.tree}
        layer = Layer("cpu", repository, "1.0-cpu-", inputs, release_labels(release, patched, "cpu", "s" * 64))
        built = engine.build(layer, context, "Dockerfile", {"BASE": base.image})
        write_record(
            project, "cpu", patched, layer, image_id=built, content="", base=base.image, state="built", reasons=[]
        )
        record = read_record(project, "cpu", "v1")
        assert record is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("YRPD_CACHE", str(here.cache))  # the wheels of deploy.pyz
            made = provide_release(project, patched, record, client, quiet())
            write_json(record_file(project, "cpu", "v1"), {**record, "release": made.name})
            yield Released(project, patched, client, made, repository)
    finally:
        remove_images(client, repository)


@contextmanager
def mounted_disk(parent: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = parent / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path) as folder:
        yield folder
