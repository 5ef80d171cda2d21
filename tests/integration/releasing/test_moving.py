"""Saved and loaded on a real engine, carried through a real registry; whatever breaks leaves nothing half made."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import zstandard
from docker import DockerClient
from docker.errors import ImageNotFound

from tests.integration.images import remove_images
from tests.integration.one_host import one_host
from yrpd.commands import image
from yrpd.docker.connection import candidates
from yrpd.documents.manifest import Manifest
from yrpd.documents.release_folder import STANDALONE, TARBALL, ReleaseFolder, parse_checksums
from yrpd.errors import ImageError
from yrpd.releasing import image_load, saving
from yrpd.releasing.archive import ChunkReader, read_archive
from yrpd.releasing.verifying import verify_image

from .broken_line import BrokenLine
from .conftest import Released, quiet
from .test_verifying import broken


@pytest.fixture(scope="module")
def saved(released: Released) -> Released:
    saving.save(released.client, released.folder, quiet())
    return released


@pytest.fixture
def absent(saved: Released) -> Iterator[Released]:
    """The release while the engine has neither its image nor a layer of it."""
    remove_images(saved.client, saved.repository)
    yield saved
    image_load.load(saved.client, saved.folder, saved.manifest, quiet())


def _socket() -> str:
    return candidates()[0].removeprefix("unix://")


def _through(line: BrokenLine, timeout: float = 60) -> DockerClient:
    return DockerClient(base_url=f"unix://{line.address}", timeout=cast(Any, timeout), version="auto")


def _has(client: DockerClient, manifest: Manifest) -> bool:
    try:
        client.images.get(manifest.image)
    except ImageNotFound:
        return False
    return True


def test_the_tarball_is_what_docker_load_reads_and_the_manifest_names(saved: Released) -> None:
    tarball = saved.manifest.tarball
    assert tarball is not None
    data = saved.folder.tarball.read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (tarball.bytes, tarball.sha256)
    assert parse_checksums(saved.folder.read("SHA256SUMS").decode())[TARBALL] == tarball.sha256
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    assert plain == b"".join(saved.client.api.get_image(saved.manifest.image))
    assert len(plain) == tarball.bytes_unpacked
    facts = read_archive(ChunkReader([plain]))
    assert (facts.image_id, facts.diff_ids, facts.tags) == (
        saved.manifest.id,
        saved.manifest.diff_ids,
        (saved.manifest.image,),
    )


def test_saving_twice_gives_the_same_bytes(saved: Released, tmp_path: Path) -> None:
    other = saved.copy(tmp_path)
    other.folder.tarball.unlink()
    saving.save(saved.client, other.folder, quiet())
    assert other.folder.tarball.read_bytes() == saved.folder.tarball.read_bytes()
    assert other.folder.read("SHA256SUMS") == saved.folder.read("SHA256SUMS")


@pytest.mark.parametrize(("silent", "why"), [(False, "broke off|breaks off"), (True, "said nothing")])
def test_an_engine_that_dies_or_hangs_while_saving_leaves_the_folder_as_it_was(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool, why: str
) -> None:
    other = released.copy(tmp_path)
    monkeypatch.setenv("YRPD_ENGINE_TIMEOUT", "2")
    other.folder.tarball.unlink(missing_ok=True)
    before = {path: path.read_bytes() for path in other.folder.path.rglob("*") if path.is_file()}
    with BrokenLine(_socket(), str(tmp_path / "sock"), down=3 << 20, silent=silent) as line:
        with pytest.raises(ImageError, match=why) as caught:
            saving.save(_through(line, timeout=2), other.folder, quiet())
        assert line.broken.is_set()
    assert caught.value.exit_code == 6
    assert {path: path.read_bytes() for path in other.folder.path.rglob("*") if path.is_file()} == before


def test_a_full_disk_while_saving_leaves_the_folder_as_it_was(released: Released, small_disk: Path) -> None:
    folder = ReleaseFolder(small_disk / released.folder.name)
    shutil.copytree(released.folder.path, folder.path, ignore=shutil.ignore_patterns(TARBALL, STANDALONE))
    with pytest.raises(ImageError, match="No space left") as caught:
        saving.save(released.client, folder, quiet())
    assert caught.value.exit_code == 6
    assert not [path.name for path in folder.path.iterdir() if TARBALL in path.name]


def test_an_image_that_lost_its_name_to_another_is_not_saved(released: Released, tmp_path: Path) -> None:
    other, name = released.copy(tmp_path), released.manifest.image
    other.folder.tarball.unlink(missing_ok=True)
    repository, _, tag = name.rpartition(":")
    released.client.images.get(released.derive("COPY x /x", x="x")).tag(repository, tag)
    try:
        with pytest.raises(ImageError, match="not the image of this release any more"):
            saving.save(released.client, other.folder, quiet())
    finally:
        released.restore()
    assert not other.folder.tarball.exists()


def test_a_load_brings_exactly_the_image_and_a_second_one_moves_nothing(absent: Released) -> None:
    tarball = absent.manifest.tarball
    assert tarball is not None
    first = image_load.load(absent.client, absent.folder, absent.manifest, quiet())
    assert (first.state, first.kept_layers, first.moved_bytes) == ("loaded", 0, tarball.bytes_unpacked)
    assert absent.client.images.get(absent.manifest.image).id == absent.manifest.id
    second = image_load.load(absent.client, absent.folder, absent.manifest, quiet())
    assert (second.state, second.moved_bytes) == ("unchanged", 0)


def test_layers_that_the_engine_has_are_not_sent(saved: Released) -> None:
    saved.derive("COPY x /x", x="keeps the layers below it on the engine")
    saved.client.images.remove(saved.manifest.image, force=True)
    done = image_load.load(saved.client, saved.folder, saved.manifest, quiet())
    assert (done.state, done.kept_layers) == ("loaded", len(saved.manifest.diff_ids))
    assert done.moved_bytes < 100_000
    assert saved.client.images.get(saved.manifest.image).id == saved.manifest.id


@pytest.mark.parametrize("where", [0.1, 0.5, 0.99])
def test_a_tampered_tarball_is_found_before_the_engine_gets_a_byte(
    absent: Released, tmp_path: Path, where: float
) -> None:
    other = absent.copy(tmp_path)
    data = bytearray(other.folder.tarball.read_bytes())
    data[int(len(data) * where)] ^= 1
    other.folder.tarball.write_bytes(data)
    with pytest.raises(ImageError, match=r"is not the release's: expected sha256 [0-9a-f]{64}, found") as caught:
        image_load.load(absent.client, other.folder, other.manifest, quiet())
    assert caught.value.exit_code == 6
    assert not _has(absent.client, absent.manifest)


def test_without_a_tarball_the_next_command_makes_one(absent: Released, tmp_path: Path) -> None:
    other = absent.copy(tmp_path)
    other.folder.tarball.unlink()
    with pytest.raises(ImageError, match="No such file") as caught:
        image_load.load(absent.client, other.folder, other.manifest, quiet())
    assert caught.value.next_command == "invoke image.save"


@pytest.mark.parametrize(("silent", "why"), [(False, "broke off"), (True, "said nothing")])
def test_an_engine_that_dies_or_hangs_while_loading_has_no_half_image(
    absent: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool, why: str
) -> None:
    monkeypatch.setenv("YRPD_ENGINE_TIMEOUT", "2")
    with (
        BrokenLine(_socket(), str(tmp_path / "sock"), up=3 << 20, silent=silent) as line,
        pytest.raises(ImageError, match=why) as caught,
    ):
        image_load.load(_through(line, timeout=2), absent.folder, absent.manifest, quiet())
    assert caught.value.exit_code == 6
    assert not _has(absent.client, absent.manifest)


@pytest.mark.parametrize(("silent", "why"), [(False, "broke off"), (True, "said nothing for 2 s")])
def test_a_host_of_the_inventory_that_dies_or_hangs_while_loading_is_named_in_time(
    absent: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool, why: str
) -> None:
    monkeypatch.setenv("YRPD_ENGINE_TIMEOUT", "2")
    hosts, socket = tmp_path / "hosts.toml", tmp_path / "sock"
    hosts.write_text(one_host("load", f"unix://{socket}", "/m"))
    options: dict[str, Any] = {"project": absent.project, "reporter": quiet(), "flavour": "cpu", "pin": "v1"}
    with (
        BrokenLine(_socket(), str(socket), up=3 << 20, silent=silent) as line,
        pytest.raises(ImageError, match=why) as caught,
    ):
        image.load(host="here", hosts_file=hosts, **options)
    assert line.broken.is_set()
    assert caught.value.exit_code == 6
    assert not _has(absent.client, absent.manifest)


def test_what_docker_pushes_and_pulls_is_proved_against_the_release(saved: Released, registry: str) -> None:
    """docs/release.md: registries are docker's business, and what arrives is the release's or is not."""
    repository = f"{registry}/team/vllm"
    images, manifest = saved.client.images, saved.manifest
    tag = manifest.image.rpartition(":")[2]
    images.get(manifest.image).tag(repository, tag)
    pushed = images.push(repository, tag=tag)
    assert "error" not in pushed, pushed
    digest = images.get_registry_data(f"{repository}:{tag}").id
    remove_images(saved.client, repository)
    remove_images(saved.client, saved.repository)
    try:
        reference = f"{repository}@{digest}"
        pulled = images.pull(reference)
        assert pulled.id == manifest.id
        assert broken(verify_image(saved.client, saved.folder, manifest, reference)) == {}
        remove_images(saved.client, repository)
    finally:
        image_load.load(saved.client, saved.folder, saved.manifest, quiet())
