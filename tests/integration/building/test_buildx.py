"""The real buildx on a real engine: it builds what the classic builder would, and what fails is named."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient
from docker.errors import ImageNotFound

from tests.integration.building.newer import docker_of_13
from tests.integration.images import remove_images
from tests.integration.releasing.conftest import write_python_root
from yrpd.building.assembly import file_part
from yrpd.building.buildx_engine import BuildxEngine
from yrpd.building.context import Context
from yrpd.building.engines import open_engine
from yrpd.building.layers import Layer
from yrpd.errors import ImageError
from yrpd.reporting import Reporter

DOCKERFILE = """ARG BASE
FROM ${BASE}
LABEL yrpd.stage=x
COPY file /folder/file
RUN ["python3", "-c", "%s"]
"""
NO_NETWORK = "import os; print(sorted(os.listdir('/sys/class/net')))"


@pytest.fixture(scope="module")
def repository(client: DockerClient) -> Iterator[str]:
    name = f"yrpd-test-{uuid.uuid4().hex[:12]}"
    yield name
    remove_images(client, name)


@pytest.fixture(scope="module")
def buildx(
    client: DockerClient, repository: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BuildxEngine, Layer]]:
    """buildx, and a base image with a Python."""
    folder = tmp_path_factory.mktemp("buildx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_CONFIG", str(docker_of_13()))
        engine = open_engine("buildx", Reporter(), folder / "image.log")
        assert isinstance(engine, BuildxEngine)
        write_python_root(folder / "root.tar")
        base = Layer("base", repository, "base-", {"root": "python"}, {})
        engine.assemble(base, [file_part(folder / "root.tar", "Python")], {})
        yield engine, base


def _build(buildx: tuple[BuildxEngine, Layer], name: str, program: str) -> tuple[Layer, str]:
    engine, base = buildx
    context = Context()
    context.add_bytes("Dockerfile", (DOCKERFILE % program).encode())
    context.add_bytes("file", b"content")
    layer = Layer("cpu", base.repository, f"{name}-", {"name": name}, {"a title": 'with "quotes" and $dollars'})
    return layer, engine.build(layer, context, "Dockerfile", {"BASE": base.image})


def test_an_image_has_its_name_labels_and_files(buildx: tuple[BuildxEngine, Layer], client: DockerClient) -> None:
    layer, made = _build(buildx, "good", NO_NETWORK)
    assert buildx[0].find(layer) == made
    assert client.images.get(made).labels == {**layer.all_labels, "yrpd.stage": "x"}
    log = buildx[0].log.read_text()
    assert "['lo']" in log
    assert "done: [2/3] COPY file /folder/file" in log
    printed = client.containers.run(
        made, ["python3", "-c", "print(open('/folder/file').read())"], remove=True, network_mode="none"
    )
    assert printed == b"content\n"


def test_a_step_that_fails_is_named_and_leaves_no_image(
    buildx: tuple[BuildxEngine, Layer], client: DockerClient, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"RUN .*SystemExit\(3\).*exit code: 3") as caught:
        _build(buildx, "bad", "raise SystemExit(3)")
    assert caught.value.exit_code == 6
    assert caught.value.next_command == f"less {buildx[0].log}"
    layer = Layer("cpu", buildx[1].repository, "bad-", {"name": "bad"}, {})
    with pytest.raises(ImageNotFound):
        client.images.get(layer.image)


def test_a_base_that_is_not_there_is_said(buildx: tuple[BuildxEngine, Layer]) -> None:
    engine, base = buildx
    gone = Layer("base", base.repository, "gone-", {"root": "gone"}, {})
    with pytest.raises(ImageError, match=gone.image):
        _build((engine, gone), "baseless", NO_NETWORK)
