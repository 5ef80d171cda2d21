"""Docker 26: two builds have the same layers."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from tests.integration.building.newer import newer_engine
from tests.integration.releasing.conftest import write_python_root
from yrpd.building.assembly import file_part
from yrpd.building.context import Context
from yrpd.building.image_engine import ImageEngine
from yrpd.building.layers import Layer
from yrpd.docker.connection import connect
from yrpd.reporting import Reporter

REPOSITORY = "yrpd-test-newer"
# As Dockerfile.cpu: content with its folders, a program that writes, and the time 0 for what was written.
DOCKERFILE = """ARG BASE
FROM ${BASE}
LABEL yrpd.stage=x
COPY root /
ENV KEY=value
WORKDIR /folder
RUN ["python3", "-B", "-c", "%s"]
"""
SETTLE = "[os.utime(path, (0, 0)) for path in ('/folder/written', '/folder')]"
WRITE = f"import os; open('/folder/written', 'w').write('x'); {SETTLE}"


def _write_mount_points(path: Path) -> None:
    """Write what every real root has: a builder that misses a folder to mount on makes it, at the time of the build."""
    with tarfile.open(path, "w") as tar:
        for name in ("dev", "proc", "sys", "etc", "etc/hosts", "etc/resolv.conf"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = (tarfile.REGTYPE, 0o644) if "/" in name else (tarfile.DIRTYPE, 0o755)
            tar.addfile(info)


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DockerClient, Layer]]:
    """A client of the engine, and an image with a Python on it."""
    folder = tmp_path_factory.mktemp("newer")
    with newer_engine():
        client = connect()
        assert int(client.version()["Version"].split(".")[0]) >= 25
        write_python_root(folder / "root.tar")
        _write_mount_points(folder / "points.tar")
        parts = [file_part(folder / "root.tar", "Python"), file_part(folder / "points.tar", "where builders mount")]
        base = Layer("base", REPOSITORY, "base-", {"root": "python"}, {})
        ImageEngine(client, Reporter(), folder / "base.log").assemble(base, parts, {})
        yield client, base
        client.close()


def test_two_builds_have_equal_layers(newer: tuple[DockerClient, Layer], tmp_path: Path) -> None:
    client, base = newer
    made = []
    for number in range(2):
        engine = ImageEngine(client, Reporter(), tmp_path / f"{number}.log")
        context = Context()
        context.add_bytes("Dockerfile", (DOCKERFILE % WRITE).encode())
        context.add_bytes("root/folder/deeper/file", b"content")
        layer = Layer("cpu", REPOSITORY, "two-", {"some": "input"}, {"title": "two"})
        made.append(client.images.get(engine.build(layer, context, "Dockerfile", {"BASE": base.image})))
        client.images.remove(layer.image)
    assert made[0].attrs["RootFS"]["Layers"] == made[1].attrs["RootFS"]["Layers"]
