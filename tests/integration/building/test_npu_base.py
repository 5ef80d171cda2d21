"""The npu image's base and a real registry: resolved once, recorded, pulled by digest; errors inside streams."""

from __future__ import annotations

import io
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.integration.images import remove_images
from yrpd.building import commands
from yrpd.building.image_engine import ImageEngine
from yrpd.building.npu_base import provide_base
from yrpd.docker.connection import read_stream
from yrpd.errors import ConfigurationError, ImageError
from yrpd.project import Project
from yrpd.release import FlavourTable, load_release
from yrpd.reporting import Reporter


@pytest.fixture
def builder(client: docker.DockerClient, reporter: Reporter, tmp_path: Path) -> ImageEngine:
    return ImageEngine(client, reporter, tmp_path / "image.log")


def _make(client: docker.DockerClient, name: str, text: str) -> str:
    """Import a root of one file as an image, and return its id."""
    repository, _, tag = name.rpartition(":")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    client.api.import_image_from_data(stream.getvalue(), repository=repository, tag=tag)
    return str(client.images.get(name).id)


def _push(client: docker.DockerClient, name: str) -> None:
    repository, _, tag = name.rpartition(":")
    read_stream(iter(client.api.push(repository, tag=tag, stream=True, decode=True)), print, what=f"pushing {name}")


@pytest.fixture
def base(builder: ImageEngine, registry: str) -> Iterator[str]:
    """A base image's name in the registry, which the engine does not have any more."""
    name = f"{registry}/yrpd-test-{uuid.uuid4().hex[:12]}:v1"
    repository = name.rpartition(":")[0]
    _make(builder.client, name, "one")
    _push(builder.client, name)
    remove_images(builder.client, repository)
    yield name
    remove_images(builder.client, repository)


@pytest.fixture
def project(base: str, tmp_path: Path, engine: str) -> Project:
    """A checkout whose npu base is that image."""
    root = tmp_path / "checkout"
    root.mkdir()
    text = Project.here().release_file.read_text()
    shipped = load_release(Project.here().release_file).flavours["npu"].base
    (root / "release.toml").write_text(text.replace(shipped, base))
    return Project(root)


def _table(project: Project) -> FlavourTable:
    return load_release(project.release_file).flavours["npu"]


def test_the_tag_is_resolved_once_and_recorded_with_every_other_line_kept(
    project: Project, reporter: Reporter, builder: ImageEngine, base: str
) -> None:
    before = project.release_file.read_text()
    planned = commands.lock(project=project, reporter=reporter, flavour="npu", dry_run=True)
    assert (planned["state"], project.release_file.read_text()) == ("planned", before)
    locked = commands.lock(project=project, reporter=reporter, flavour="npu")
    assert locked["state"] == "locked"
    assert locked["base_digest"] == builder.resolve(base)
    after = project.release_file.read_text()
    assert after == before.replace('base_digest = ""', f'base_digest = "{locked["base_digest"]}"')
    again = commands.lock(project=project, reporter=reporter, flavour="npu")
    assert (again["state"], project.release_file.read_text()) == ("unchanged", after)


def test_the_base_is_pulled_by_the_digest_even_after_its_tag_was_moved(
    project: Project, reporter: Reporter, builder: ImageEngine, base: str
) -> None:
    commands.lock(project=project, reporter=reporter, flavour="npu")
    table = _table(project)
    moved = _make(builder.client, base, "two")
    _push(builder.client, base)
    got = provide_base(builder, table, reporter)
    assert got != moved
    assert provide_base(builder, table, reporter) == got, "the second time from the engine"
    relocked = commands.lock(project=project, reporter=reporter, flavour="npu")
    assert relocked["previous"] == table.base_digest != relocked["base_digest"]
    assert relocked["base_id"] == moved


def test_a_base_that_came_by_save_and_load_is_known_by_its_id(
    project: Project, reporter: Reporter, builder: ImageEngine, base: str
) -> None:
    commands.lock(project=project, reporter=reporter, flavour="npu")
    identity = provide_base(builder, _table(project), reporter)
    assert commands.lock(project=project, reporter=reporter, flavour="npu")["base_id"] == identity
    builder.client.images.get(identity).tag(base)
    saved = b"".join(builder.client.images.get(base).save(named=base))
    remove_images(builder.client, base.rpartition(":")[0])
    builder.client.images.load(saved)
    assert builder.client.images.get(base).attrs["RepoDigests"] == []
    assert provide_base(builder, _table(project), reporter) == identity


def test_without_a_digest_the_error_names_the_command_that_finds_it(
    project: Project, reporter: Reporter, builder: ImageEngine
) -> None:
    with pytest.raises(ImageError, match="has no digest") as caught:
        provide_base(builder, _table(project), reporter)
    assert caught.value.exit_code == 6
    assert caught.value.next_command.startswith("invoke image.lock --flavour npu")


def test_a_registry_without_the_image_is_an_error_of_lock_and_pull(
    project: Project, reporter: Reporter, builder: ImageEngine, base: str
) -> None:
    shutil.rmtree(project.root.parent / "registry")
    with pytest.raises(ImageError, match="gave no digest"):
        commands.lock(project=project, reporter=reporter, flavour="npu")
    table = _table(project).model_copy(update={"base_digest": f"sha256:{'0' * 64}"})
    with pytest.raises(ImageError, match="cannot be pulled from here") as caught:
        provide_base(builder, table, reporter)
    assert "docker load" in caught.value.next_command


def test_the_cpu_flavour_has_nothing_to_lock(project: Project, reporter: Reporter) -> None:
    with pytest.raises(ConfigurationError, match="debootstrap"):
        commands.lock(project=project, reporter=reporter, flavour="cpu")
