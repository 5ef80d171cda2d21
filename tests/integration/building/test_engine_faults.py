"""A build on an engine of its own that dies, runs out of disk or falls silent: a clear error, and nothing half made."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from tenacity import Retrying, retry_if_not_result, stop_after_delay, wait_fixed

from workshop import lab
from workshop.lab.layout import BUILDER, named_lab
from yrpd.building.assembly import file_part
from yrpd.building.context import Context
from yrpd.building.image_engine import ImageEngine
from yrpd.building.layers import Layer
from yrpd.docker.connection import TIMEOUT_VARIABLE, connect
from yrpd.errors import ImageError
from yrpd.project import Project
from yrpd.reporting import Reporter

LAB = "yrpd-faults"
FOLDERS = named_lab(LAB).folders(BUILDER)
DISK_MB = 48
# Programs without libraries: one ends at once, one never ends.
END = '__asm__ volatile("syscall" : : "a"(60L), "D"(0L));'
FOREVER = 'for (;;) __asm__ volatile("syscall" : : "a"(34L) : "rcx", "r11", "memory");'
STEP = 'ARG BASE\nFROM ${BASE}\nLABEL yrpd.stage=x\nCOPY file /file\nRUN ["/%s"]\n'


def _bring_up() -> None:
    lab.builder(project=Project.here(), reporter=Reporter(), lab_name=LAB)


@pytest.fixture(scope="module")
def faulty() -> Iterator[str]:
    """An engine whose disk is small, and that may be harmed; it and its disk go with the module."""
    disk = FOLDERS.data / "docker"
    disk.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)], check=True)
        _bring_up()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", FOLDERS.engine)
            yield FOLDERS.engine
    finally:
        lab.down(project=Project.here(), reporter=Reporter(), lab_name=LAB)
    assert not disk.exists()


@pytest.fixture
def builder(faulty: str, reporter: Reporter, tmp_path: Path) -> Iterator[ImageEngine]:
    _bring_up()
    client = connect()
    yield ImageEngine(client, reporter, tmp_path / "image.log")
    client.close()


@pytest.fixture
def base(builder: ImageEngine, tmp_path: Path) -> Layer:
    """A root with the two programs."""
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        for name, body in (("end", END), ("forever", FOREVER)):
            (tmp_path / f"{name}.c").write_text(f"void _start(void) {{ {body} __builtin_unreachable(); }}\n")
            subprocess.run(["gcc", "-static", "-nostdlib", "-o", name, f"{name}.c"], cwd=tmp_path, check=True)
            tar.add(tmp_path / name, arcname=name)
    layer = Layer("base", "yrpd-fault", "base-", {"root": "programs"}, {})
    builder.assemble(layer, [file_part(tmp_path / "root.tar", "root")], {})
    return layer


def _layer(name: str) -> Layer:
    return Layer("cpu", "yrpd-fault", f"{name}-", {"name": name}, {})


def _context(program: str, size: int = 1) -> Context:
    context = Context()
    context.add_bytes("Dockerfile", (STEP % program).encode())
    context.add_bytes("file", os.urandom(size))
    return context


def _wait(condition: Callable[[], bool]) -> None:
    Retrying(stop=stop_after_delay(60), wait=wait_fixed(0.1), retry=retry_if_not_result(bool))(condition)


def _nothing_left(client: docker.DockerClient, layer: Layer) -> None:
    """No tag, no container, no context of the failed build."""
    assert [image for image in client.images.list("yrpd-fault") if layer.image in image.tags] == []
    _wait(lambda: client.containers.list(all=True) == [])
    assert list((FOLDERS.data / "docker" / "tmp").glob("docker-builder*")) == []


def _builds(builder: ImageEngine, base: Layer, name: str) -> None:
    """The engine is as good as before."""
    layer = _layer(name)
    assert builder.build(layer, _context("end"), "Dockerfile", {"BASE": base.image}) == builder.find(layer)


def test_a_full_disk_is_named_and_the_same_engine_builds_again(builder: ImageEngine, base: Layer) -> None:
    layer = _layer("full")
    with pytest.raises(ImageError, match="no space left on device") as caught:
        builder.build(layer, _context("end", size=(DISK_MB + 16) << 20), "Dockerfile", {"BASE": base.image})
    assert caught.value.exit_code == 6
    assert caught.value.next_command == f"less {builder.log}"
    _nothing_left(builder.client, layer)
    _builds(builder, base, "after-full")


def test_a_disk_that_fills_up_within_a_layer_leaves_no_image(builder: ImageEngine, base: Layer) -> None:
    layer = _layer("filling")
    # The context fits beside nothing: its copy into the layer does not.
    with pytest.raises(ImageError, match="no space left on device"):
        builder.build(layer, _context("end", size=(DISK_MB * 2 // 3) << 20), "Dockerfile", {"BASE": base.image})
    _nothing_left(builder.client, layer)
    _builds(builder, base, "after-filling")


def test_an_engine_that_says_nothing_is_given_up_and_stops_the_build_itself(
    builder: ImageEngine, base: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "3")
    patient = ImageEngine(connect(), builder.reporter, builder.log)
    layer = _layer("silent")
    with pytest.raises(ImageError, match="said nothing for 3 s") as caught:
        patient.build(layer, _context("forever"), "Dockerfile", {"BASE": base.image})
    assert caught.value.exit_code == 6
    assert TIMEOUT_VARIABLE in caught.value.message
    _nothing_left(builder.client, layer)
    _builds(builder, base, "after-silent")


def test_an_engine_that_dies_within_a_build_is_an_error_and_comes_back_without_the_tag(
    builder: ImageEngine, base: Layer
) -> None:
    layer, caught = _layer("dying"), list[BaseException]()

    def build() -> None:
        try:
            builder.build(layer, _context("forever"), "Dockerfile", {"BASE": base.image})
        except BaseException as error:
            caught.append(error)

    building = threading.Thread(target=build)
    building.start()
    _wait(lambda: bool(builder.client.containers.list()))
    os.kill(int(FOLDERS.pid_file.read_text()), signal.SIGKILL)
    building.join(timeout=60)
    assert not building.is_alive()
    (error,) = caught
    assert isinstance(error, ImageError)
    assert error.exit_code == 6
    assert "broke off" in error.message
    assert error.next_command == f"less {builder.log}"
    assert "RUN" in error.detail
    _bring_up()
    client = connect()
    assert [image for image in client.images.list("yrpd-fault") if layer.image in image.tags] == []
    assert list((FOLDERS.data / "docker" / "tmp").glob("docker-builder*")) == []
    for container in client.containers.list(all=True):
        container.remove(force=True)
    _builds(ImageEngine(client, builder.reporter, builder.log), base, "after-dying")


def test_loading_layers_onto_a_full_disk_leaves_no_base(builder: ImageEngine, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        info = tarfile.TarInfo("large")
        info.size = (DISK_MB + 16) << 20
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    layer = Layer("base", "yrpd-fault", "large-", {"root": "large"}, {})
    with pytest.raises(ImageError, match="no space left on device"):
        builder.assemble(layer, [file_part(tmp_path / "root.tar", "root")], {})
    assert builder.find(layer) == ""
