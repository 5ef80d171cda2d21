"""A registry that is killed in mid-push, or whose disk is full: an error, no tag, and a second try works.

An engine tries an upload five times, and counts down for fifty seconds between: both pushes are made at the same time.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tenacity import Retrying, retry_if_not_result, stop_after_delay, wait_fixed

from tests.integration.images import remove_images
from yrpd.errors import ImageError
from yrpd.releasing import registry

from .conftest import Released, mounted_disk, quiet
from .debian_registry import Registry, free_port, push_fails, start

UPLOADS_DEADLINE_S = 120


@dataclass(frozen=True)
class Failed:
    """A registry that a push failed at, and how."""

    registry: Registry
    error: ImageError


def _kill_at_the_first_blob(one: Registry) -> None:
    """Kill a registry as soon as it has begun to write a blob; all of an image's blobs come before its tag."""
    Retrying(stop=stop_after_delay(UPLOADS_DEADLINE_S), wait=wait_fixed(0.01), retry=retry_if_not_result(bool))(
        lambda: any(path.stat().st_size for path in one.storage.rglob("_uploads/*/data"))
    )
    one.process.kill()
    one.process.wait()


@pytest.fixture(scope="module")
def pushes(released: Released, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Failed, Failed]]:
    """The killed one, which is down, and the full one, which runs."""
    killed, full = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("full")
    with mounted_disk(full) as disk, ThreadPoolExecutor(3) as pool:
        registries = start(killed, killed / "storage", free_port()), start(full, disk, free_port())
        try:
            killer = pool.submit(_kill_at_the_first_blob, registries[0])
            errors = [
                pool.submit(push_fails, released, folder, one.repository)
                for folder, one in zip((killed, full), registries, strict=True)
            ]
            killer.result()
            yield Failed(registries[0], errors[0].result()), Failed(registries[1], errors[1].result())
        finally:
            for one in registries:
                one.end()
                remove_images(released.client, one.repository)


def _push_works(released: Released, folder: Path, one: Registry) -> None:
    other = released.copy(folder / "again")
    manifest, pushed = registry.push(released.client, other.folder, one.repository, quiet())
    assert other.manifest.pushed == (pushed,)
    assert one.tags() == [manifest.image.rpartition(":")[2]]


def test_a_registry_that_is_killed_in_mid_push(
    released: Released, pushes: tuple[Failed, Failed], tmp_path: Path
) -> None:
    killed = pushes[0]
    assert "connection refused" in killed.error.message
    assert f"invoke image.push --to {killed.registry.repository}" in killed.error.next_command
    again = start(tmp_path, killed.registry.storage, killed.registry.port)
    try:
        assert again.tags() == []
        _push_works(released, tmp_path, again)
    finally:
        again.end()


def test_a_registry_whose_disk_is_full(released: Released, pushes: tuple[Failed, Failed], tmp_path: Path) -> None:
    full = pushes[1]
    assert "The registry failed; its log says why (often its disk is full)." in full.error.message
    assert "no space left on device" in full.registry.log.read_text()
    assert full.registry.tags() == []
    subprocess.run(["mount", "-o", "remount,size=256m", str(full.registry.storage)], check=True)
    _push_works(released, tmp_path, full.registry)
