"""Archives of the release's image that other tools wrote: gzip, Docker 25 and later, tools that write OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from docker import DockerClient
from docker.errors import ImageNotFound

from tests.integration.building.newer import newer_engine
from tests.integration.images import remove_images
from yrpd.errors import ConfigurationError, ImageError
from yrpd.releasing import commands, loading, saving
from yrpd.releasing.verifying import verify_tarball

from .conftest import Released, quiet
from .test_verifying import broken

MEDIA = "application/vnd.oci.image"


@pytest.fixture(scope="module")
def saved(released: Released) -> Released:
    saving.save(released.client, released.folder, quiet())
    return released


@pytest.fixture(scope="module")
def plain(saved: Released) -> bytes:
    """What ``docker save`` of the engine writes."""
    return b"".join(saved.client.api.get_image(saved.manifest.image))


def _members(plain: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return {one.name: (tar.extractfile(one) or io.BytesIO()).read() for one in tar if one.isfile()}


def _tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _path(blob: dict[str, object]) -> str:
    return f"blobs/{str(blob['digest']).replace(':', '/')}"


def _layout(plain: bytes, *, compressed: bool, dockers: bool) -> bytes:
    """Return the archive as an OCI image layout, with gzipped layers or not, with Docker's index in it or not."""
    members = _members(plain)
    (index,) = json.loads(members["manifest.json"])
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"{MEDIA}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    config = blob(members[index["Config"]], "config.v1+json")
    layers = [
        blob(gzip.compress(members[one], 1), "layer.v1.tar+gzip") if compressed else blob(members[one], "layer.v1.tar")
        for one in index["Layers"]
    ]
    manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode(), "manifest.v1+json")
    named = {**manifest, "annotations": {"io.containerd.image.name": index["RepoTags"][0]}}
    files = {
        **blobs,
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [named]}).encode(),
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
    }
    if dockers:
        row = {"Config": _path(config), "RepoTags": index["RepoTags"], "Layers": [_path(one) for one in layers]}
        files["manifest.json"] = json.dumps([row]).encode()
    return _tar(files)


def _only_oci(plain: bytes) -> bytes:
    return _layout(plain, compressed=True, dockers=False)


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "docker-save-gzip": lambda plain: gzip.compress(plain, 1),
    "docker-25": lambda plain: _layout(plain, compressed=False, dockers=True),
    "docker-containerd-store": lambda plain: _layout(plain, compressed=True, dockers=True),
}


@pytest.mark.parametrize("make", [bytes, *KINDS.values(), _only_oci], ids=["docker-save", *KINDS, "oci-layout"])
def test_it_is_verified_by_its_content(
    saved: Released, plain: bytes, tmp_path: Path, make: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "archive").write_bytes(make(plain))
    links = verify_tarball(saved.folder, saved.manifest, tmp_path / "archive")
    assert broken(links) == {}
    assert [one.name for one in links] == ["tarball", "tarball -> image", "tree -> tarball"]
    assert links[0].detail.startswith("written by another tool, sha256 ")


def test_what_a_newer_engine_saves_is_the_release_and_is_loaded(saved: Released, plain: bytes, tmp_path: Path) -> None:
    with newer_engine() as address, closing(DockerClient(base_url=address)) as newer:
        newer.images.load(plain)
        data = b"".join(newer.api.get_image(saved.manifest.image))
    assert {"manifest.json", "index.json", "oci-layout"} <= _members(data).keys()
    (tmp_path / "archive").write_bytes(data)
    # Also where `image.save` never ran.
    for manifest in (saved.manifest, saved.manifest.model_copy(update={"tarball": None})):
        assert broken(verify_tarball(saved.folder, manifest, tmp_path / "archive")) == {}
    remove_images(saved.client, saved.repository)
    done = loading.load(saved.client, saved.folder, saved.manifest, quiet(), tmp_path / "archive")
    assert (done.state, done.kept_layers) == ("loaded", 0)
    assert saved.client.images.get(saved.manifest.image).id == saved.manifest.id


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_loaded_as_the_releases_image(saved: Released, plain: bytes, tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive").write_bytes(KINDS[kind](plain))
    remove_images(saved.client, saved.repository)
    done = loading.load(saved.client, saved.folder, saved.manifest, quiet(), tmp_path / "archive")
    assert (done.state, done.kept_layers) == ("loaded", 0)
    assert saved.client.images.get(saved.manifest.image).id == saved.manifest.id


def test_an_archive_with_a_changed_file_or_another_name_reaches_no_engine(
    saved: Released, plain: bytes, tmp_path: Path
) -> None:
    members = _members(plain)
    changed = {name: data.replace(b"print('setup')", b"print('evil!')") for name, data in members.items()}
    renamed = {name: data.replace(saved.manifest.image.encode(), b"another:1") for name, data in members.items()}
    remove_images(saved.client, saved.repository)
    try:
        for files, why in ((changed, "not those that its own configuration names"), (renamed, "loaded as another:1")):
            (tmp_path / "archive").write_bytes(gzip.compress(_tar(files), 1))
            with pytest.raises(ImageError, match=why) as caught:
                loading.load(saved.client, saved.folder, saved.manifest, quiet(), tmp_path / "archive")
            assert caught.value.exit_code == 6
            assert "tarball -> image" in broken(verify_tarball(saved.folder, saved.manifest, tmp_path / "archive"))
            with pytest.raises(ImageNotFound):
                saved.client.images.get(saved.manifest.image)
    finally:
        loading.load(saved.client, saved.folder, saved.manifest, quiet())


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", gzip.compress(b"no archive"), gzip.compress(b"x" * 9999)[:-9]],
    ids=["empty", "text", "gzip", "cut"],
)
def test_a_file_that_is_no_archive_is_said(saved: Released, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "archive").write_bytes(data)
    found = broken(verify_tarball(saved.folder, saved.manifest, tmp_path / "archive"))
    assert "tarball -> image" in found
    with pytest.raises(ImageError, match=r"archive|damaged"):
        loading.load(
            saved.client,
            saved.folder,
            saved.manifest.model_copy(update={"image": "x:1"}),
            quiet(),
            tmp_path / "archive",
        )


def test_a_registry_and_an_archive_are_two_sources(saved: Released) -> None:
    with pytest.raises(ConfigurationError, match="two sources"):
        commands.load(
            project=saved.project,
            reporter=quiet(),
            flavour="cpu",
            pull=True,
            tarball="x",
        )
