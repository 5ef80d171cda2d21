"""Preflight on a real engine: everything that stands in the way is found at once, and nothing is changed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import socket
import tarfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker import DockerClient

from tests.integration.one_host import one_host
from yrpd.commands.image_sources import ReleaseTarball
from yrpd.deploying.hosts import model_folder, transfer
from yrpd.deploying.image_source import BuildEngine, ImageSource
from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.planning import ports
from yrpd.deploying.preflight.engine_checks import inspect
from yrpd.deploying.preflight.findings import demand_nothing_in_the_way
from yrpd.deploying.preflight.situation import Situation
from yrpd.deploying.reconcile import Change
from yrpd.deploying.rollout.rollout import Rollout
from yrpd.deploying.spec import ContainerSpec, Mount
from yrpd.documents.image_record import ImageRecord
from yrpd.documents.manifest import Manifest, Tarball
from yrpd.documents.release_folder import ReleaseFolder
from yrpd.errors import EnvironmentFailure, ImageError
from yrpd.reporting import Reporter

#: In Docker's words, the kind of processor that this machine does not have.
OTHER = "arm64" if platform.machine() == "x86_64" else "amd64"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def inventory(tmp_path: Path, deployment: str, model: Path, engine: str) -> Inventory:
    path = tmp_path / "hosts.toml"
    path.write_text(one_host(deployment, engine, model))
    return load_inventory(path)


@pytest.fixture
def look(
    client: DockerClient, inventory: Inventory, image: str, model: Path
) -> Callable[..., tuple[list[str], list[str]]]:
    """Return ids and sentences of the findings for one container to be created."""

    def run(
        spec: ContainerSpec,
        *,
        image_id: str = image,
        builder: DockerClient | None = client,
        source: ImageSource | None = None,
    ) -> tuple[list[str], list[str]]:
        record = ImageRecord(image_id, image_id, "cpu", "pin", "tree")
        change = Change("create", "here", spec.name, "it is not there", spec)
        source = source or BuildEngine(builder, record)
        situation = Situation(inventory, record, str(model), [change], {"here": client}, source)
        findings = inspect(situation)
        return [each.id for each in findings], [each.problem for each in findings]

    return run


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_nothing_stands_in_the_way_of_a_good_deployment(
    look: Callable[..., tuple[list[str], list[str]]], make_spec: Callable[..., ContainerSpec]
) -> None:
    assert look(make_spec()) == ([], [])


def test_a_port_in_use_is_named_with_its_holder(
    look: Callable[..., tuple[list[str], list[str]]], make_spec: Callable[..., ContainerSpec], listener: int
) -> None:
    ids, problems = look(make_spec(port=listener))
    assert ids == ["port-in-use"]
    assert f"port {listener}" in problems[0]
    assert f"(pid {os.getpid()})" in problems[0]


def test_a_free_port_has_no_holder(free_port: Callable[[], int]) -> None:
    port = free_port()
    assert not ports.answers("127.0.0.1", port)
    assert ports.holder("127.0.0.1", port) == ""


def test_a_port_that_the_deployment_itself_holds_is_no_obstacle(
    look: Callable[..., tuple[list[str], list[str]]],
    make_spec: Callable[..., ContainerSpec],
    clients: dict[str, DockerClient],
    deployment: str,
    reporter: Reporter,
    tmp_path: Path,
) -> None:
    spec = make_spec()
    Rollout(clients, deployment, tmp_path, reporter).run([Change("create", "here", spec.name, "", spec)])
    assert look(make_spec(port=spec.ports[0], env=(("CHANGED", "1"),))) == ([], [])


def test_several_findings_come_in_one_report(
    look: Callable[..., tuple[list[str], list[str]]],
    make_spec: Callable[..., ContainerSpec],
    listener: int,
    model: Path,
) -> None:
    (model / "config.json").unlink()
    spec = make_spec(port=listener, mounts=(Mount(str(model), "/m"), Mount("/no/such/driver", "/d")))
    ids, problems = look(spec, image_id="sha256:" + "0" * 64, builder=None)
    assert ids == ["image-missing", "model", "mount", "port-in-use"]
    assert "the build engine does not answer" in problems[0]
    assert "has no config.json" in problems[1]
    assert "/no/such/driver does not exist" in problems[2]


def test_links_to_nothing_in_a_model_are_a_finding_and_a_nested_configuration_is_none(
    look: Callable[..., tuple[list[str], list[str]]], make_spec: Callable[..., ContainerSpec], model: Path
) -> None:
    (model / "config.json").write_text('{"text_config": {"hidden_size": 8}, "vision_config": {}}')
    spec = make_spec(mounts=(Mount("/usr", "/usr"), Mount(str(model), f"/models/{model.name}")))
    assert look(spec) == ([], [])
    (model / "1.safetensors").symlink_to("../blobs/pruned")
    ids, problems = look(spec)
    assert ids == ["model-incomplete"]
    assert problems == [f"the model in {model} has nothing in 1.safetensors"]
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("../blobs/pruned")
    assert look(spec)[1] == [f"the model folder {model} has no config.json"]


def test_an_image_for_another_processor_is_found_on_the_host_that_has_it(
    look: Callable[..., tuple[list[str], list[str]]], make_spec: Callable[..., ContainerSpec], client: DockerClient
) -> None:
    repository = f"yrpd-test-{uuid.uuid4().hex[:8]}"
    (foreign,) = client.images.load(archive_for(OTHER, f"{repository}:1"))
    try:
        ids, problems = look(make_spec(), image_id=str(foreign.id))
    finally:
        client.images.remove(f"{repository}:1")
    assert ids == ["architecture"]
    assert problems == [f"it is {platform.machine()}, the image {foreign.id} {OTHER}"]


def test_an_image_for_another_processor_is_found_before_it_is_brought(
    look: Callable[..., tuple[list[str], list[str]]], make_spec: Callable[..., ContainerSpec], tmp_path: Path
) -> None:
    folder = ReleaseFolder(tmp_path)
    folder.tarball.touch()
    saved = Tarball.model_construct()
    release = ReleaseTarball(
        folder, Manifest.model_construct(release="r", platform=f"linux/{OTHER}", size_bytes=1, tarball=saved)
    )
    ids, problems = look(make_spec(), image_id="sha256:" + "0" * 64, source=release)
    assert ids == ["architecture"]
    assert problems[0].endswith(f" {OTHER}")


def archive_for(architecture: str, name: str) -> bytes:
    """Return an image with one empty layer, in the form that ``docker save`` writes."""
    layer, archive = io.BytesIO(), io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    content = layer.getvalue()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    configuration = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    index = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    parts = {"config.json": json.dumps(configuration).encode(), "layer.tar": content}
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file, data in {**parts, "manifest.json": json.dumps(index).encode()}.items():
            member = tarfile.TarInfo(file)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive.getvalue()


def test_a_container_of_somebody_else_with_our_name_is_found(
    client: DockerClient,
    look: Callable[..., tuple[list[str], list[str]]],
    make_spec: Callable[..., ContainerSpec],
    image: str,
) -> None:
    spec = make_spec()
    foreign = client.containers.create(image, ["true"], name=spec.name)
    try:
        assert look(spec)[0] == ["name-taken"]
    finally:
        foreign.remove(force=True)


def test_findings_end_with_exit_code_8_and_the_fix(
    client: DockerClient,
    inventory: Inventory,
    make_spec: Callable[..., ContainerSpec],
    listener: int,
    image: str,
    model: Path,
) -> None:
    spec = make_spec(port=listener)
    change = Change("create", "here", spec.name, "it is not there", spec)
    record = ImageRecord(image, image, "cpu", "pin", "tree")
    findings = inspect(
        Situation(inventory, record, str(model), [change], {"here": client}, BuildEngine(client, record))
    )
    with pytest.raises(EnvironmentFailure) as caught:
        demand_nothing_in_the_way([*findings, *findings])
    assert caught.value.exit_code == 8
    assert f"ss -ltnp 'sport = :{listener}'" in caught.value.next_command
    assert "2 things stand in the way, nothing was changed" in caught.value.message
    assert caught.value.document is not None
    assert len(caught.value.document["findings"]) == 2


def test_folders_of_another_machine_are_seen_through_its_engine_alone(client: DockerClient, model: Path) -> None:
    before = len(client.containers.list(all=True)), len(client.images.list())
    assert model_folder.problems(client, str(model), (str(model),)) == []
    assert model_folder.problems(client, "/no/model", ("/no/driver",)) == [
        "the model folder /no/model does not exist",
        "/no/driver does not exist",
    ]
    (model / "config.json").rename(model / "v1.json")
    (model / "config.json").symlink_to("v1.json")
    assert model_folder.problems(client, str(model), ()) == []
    (model / "v1.json").unlink()
    assert model_folder.problems(client, str(model), ()) == [f"the model folder {model} has no config.json"]
    assert (len(client.containers.list(all=True)), len(client.images.list())) == before


def test_an_image_is_moved_with_its_name_and_identity(
    client: DockerClient, inventory: Inventory, image: str, reporter: Reporter
) -> None:
    name = client.images.get(image).tags[0]
    record = ImageRecord(name, image, "cpu", "pin", "tree")
    again = inventory.hosts[0].model_copy(update={"name": "again"})
    transfer.move(client, [inventory.hosts[0], again], record, reporter)
    assert transfer.image_on(client, record)
    assert name in client.images.get(image).tags


def test_an_image_that_one_host_cannot_take_fails_without_blocking_the_others(
    client: DockerClient, inventory: Inventory, image: str, reporter: Reporter
) -> None:
    record = ImageRecord(client.images.get(image).tags[0], image, "cpu", "pin", "tree")
    silent = inventory.hosts[0].model_copy(update={"name": "silent", "engine": "unix:///no/such/socket"})
    with pytest.raises((ImageError, EnvironmentFailure), match="no such socket"):
        transfer.move(client, [silent, inventory.hosts[0]], record, reporter)


def test_a_record_is_needed_for_every_image(make_spec: Callable[..., ContainerSpec]) -> None:
    spec = make_spec()
    assert replace(spec, image_id="sha256:other").digest != spec.digest
