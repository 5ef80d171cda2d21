"""A release that a newer engine saves, in its own form of archive, is verified, and loaded by an older one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from docker import DockerClient

from tests.integration.building.newer import newer_engine
from tests.integration.images import remove_images
from yrpd.releasing import image_load, saving
from yrpd.releasing.verifying import verify_tarball

from .conftest import Released, quiet
from .test_verifying import broken


@pytest.fixture(scope="module")
def saved(released: Released) -> Released:
    saving.save(released.client, released.folder, quiet())
    return released


def test_what_a_newer_engine_saves_is_the_release_and_is_loaded(saved: Released, tmp_path: Path) -> None:
    other = saved.copy(tmp_path)
    other.folder.tarball.unlink()
    with newer_engine() as address, closing(DockerClient(base_url=address)) as newer:
        image_load.load(newer, saved.folder, saved.manifest, quiet())
        manifest = saving.save(newer, other.folder, quiet())
    assert manifest.tarball is not None
    assert all(one.member.startswith("blobs/sha256/") for one in manifest.tarball.layers)
    assert broken(verify_tarball(manifest, other.folder.tarball)) == {}
    remove_images(saved.client, saved.repository)
    done = image_load.load(saved.client, other.folder, manifest, quiet())
    assert (done.state, done.kept_layers) == ("loaded", 0)
    assert saved.client.images.get(saved.manifest.image).id == saved.manifest.id
