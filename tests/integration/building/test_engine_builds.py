"""Layers on a real engine: made, found again, and nothing half-made left when a step fails."""

from __future__ import annotations

import io
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.integration.images import remove_images
from yrpd.building.assembly import file_part
from yrpd.building.context import Context
from yrpd.building.image_engine import ImageEngine
from yrpd.building.layers import Layer
from yrpd.errors import ImageError
from yrpd.reporting import Reporter


@pytest.fixture
def builder(client: docker.DockerClient, reporter: Reporter, tmp_path: Path) -> ImageEngine:
    return ImageEngine(client, reporter, tmp_path / "image.log")


@pytest.fixture
def repository(client: docker.DockerClient) -> Iterator[str]:
    name = f"yrpd-test-{uuid.uuid4().hex[:12]}"
    yield name
    remove_images(client, name)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root's only file: a program without libraries that ends with 3."""
    folder = tmp_path_factory.mktemp("program")
    source = 'void _start(void) { __asm__ volatile("syscall" : : "a"(60L), "D"(3L)); __builtin_unreachable(); }\n'
    (folder / "three.c").write_text(source)
    subprocess.run(["gcc", "-static", "-nostdlib", "-o", "three", "three.c"], cwd=folder, check=True)
    return folder / "three"


@pytest.fixture
def base(builder: ImageEngine, repository: str, program: Path, tmp_path: Path) -> Layer:
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(program, arcname="three")
    layer = Layer("base", repository, "base-", {"root": "three"}, {"note": 'quoted "value" = $x'})
    builder.assemble(layer, [file_part(tmp_path / "root.tar", "root")], {})
    return layer


def _context(dockerfile: str) -> Context:
    context = Context()
    context.add_bytes("Dockerfile", dockerfile.encode())
    context.add_bytes("folder/file", b"content\n", executable=True)
    return context


GOOD = """
ARG BASE
FROM ${BASE} AS first
LABEL yrpd.stage=first
COPY folder /first
FROM ${BASE}
COPY --from=first /first /folder
"""


def test_an_assembled_root_is_found_by_what_it_was_made_from(builder: ImageEngine, base: Layer) -> None:
    found = builder.client.images.get(builder.find(base))
    assert found.labels == base.all_labels
    assert found.tags == [base.image]
    other = Layer("base", base.repository, "base-", {"root": "four"}, {})
    assert builder.find(other) == ""


def test_a_tag_of_ours_on_an_image_made_from_something_else_is_not_believed(builder: ImageEngine, base: Layer) -> None:
    other = Layer("base", base.repository, "base-", {"root": "four"}, {})
    builder.client.images.get(base.image).tag(other.repository, other.tag)
    assert builder.find(other) == ""


def test_a_built_layer_has_its_files_its_labels_and_no_stage_behind_it(
    builder: ImageEngine, base: Layer, repository: str
) -> None:
    layer = Layer("cpu", repository, "", {"base": base.digest}, {})
    before = {image.id for image in builder.client.images.list(filters={"dangling": True})}
    made = builder.build(layer, _context(GOOD), "Dockerfile", {"BASE": base.image})
    assert builder.find(layer) == made
    assert builder.client.images.get(made).labels["yrpd.inputs-digest"] == layer.digest
    after = {image.id for image in builder.client.images.list(filters={"dangling": True})}
    assert after <= before
    assert "Successfully built" in builder.log.read_text()


def _content(builder: ImageEngine, image_id: str) -> list[tuple[str, int, int, bytes]]:
    """Return what is in an image's layers; the classic builder gives folders that it makes the time of the build."""
    rows = []
    with tarfile.open(fileobj=io.BytesIO(b"".join(builder.client.api.get_image(image_id)))) as image:
        for name in image.getnames():
            stream = image.extractfile(name) if name.endswith("layer.tar") else None
            if stream is None:
                continue
            with tarfile.open(fileobj=io.BytesIO(stream.read())) as layer:
                for member in layer:
                    data = layer.extractfile(member) if member.isfile() else None
                    mtime = 0 if member.isdir() else int(member.mtime)
                    rows.append((member.name, member.mode & 0o7777, mtime, data.read() if data else b""))
    return sorted(rows)


def test_the_same_context_gives_the_same_layer_contents_however_often_it_is_built(
    builder: ImageEngine, base: Layer, repository: str
) -> None:
    contents = []
    for number in ("one", "two"):
        layer = Layer("cpu", repository, "", {"base": base.digest, "number": number}, {})
        made = builder.build(layer, _context(GOOD), "Dockerfile", {"BASE": base.image})
        contents.append(_content(builder, made))
        builder.client.images.remove(layer.image)
    assert contents[0] == contents[1]
    assert ("folder/file", 0o755, 0, b"content\n") in contents[0]


@pytest.mark.parametrize(
    ("dockerfile", "why"),
    [
        ('ARG BASE\nFROM ${BASE}\nLABEL yrpd.stage=x\nRUN ["/three"]\n', "returned a non-zero code: 3"),
        ("ARG BASE\nFROM ${BASE}\nLABEL yrpd.stage=x\nCOPY missing /x\n", "missing"),
        ("ARG BASE\nFROM ${BASE}\nNOTHING\n", "nothing"),
    ],
)
def test_a_step_that_fails_is_an_error_with_its_reason_and_leaves_no_image(
    builder: ImageEngine, base: Layer, repository: str, dockerfile: str, why: str
) -> None:
    layer = Layer("cpu", repository, "", {"base": base.digest, "dockerfile": dockerfile}, {})
    before = {image.id for image in builder.client.images.list(filters={"dangling": True})}
    with pytest.raises(ImageError) as caught:
        builder.build(layer, _context(dockerfile), "Dockerfile", {"BASE": base.image})
    assert why in caught.value.message.lower()
    assert caught.value.next_command == f"less {builder.log}"
    assert builder.find(layer) == ""
    assert {image.id for image in builder.client.images.list(filters={"dangling": True})} <= before


def test_a_base_that_is_not_there_is_an_error(builder: ImageEngine, repository: str) -> None:
    layer = Layer("cpu", repository, "", {}, {})
    with pytest.raises(ImageError, match="failed"):
        builder.build(layer, _context(GOOD), "Dockerfile", {"BASE": f"{repository}-not-there:1"})


def test_an_archive_that_is_no_archive_is_refused(builder: ImageEngine, repository: str, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no archive at all" * 100)
    layer = Layer("base", repository, "", {"x": "y"}, {})
    with pytest.raises(ImageError, match="failed"):
        builder.assemble(layer, [file_part(tmp_path / "bad.tar", "root")], {})
    assert builder.find(layer) == ""
