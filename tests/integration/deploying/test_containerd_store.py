"""Hosts whose engine keeps images in containerd's store, the default of a fresh Docker 29: one image has another id."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from docker import DockerClient
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.integration.building.newer import docker_of_13
from tests.integration.deploying.conftest import HOST
from tests.integration.one_host import one_host
from tests.integration.releasing.conftest import write_python_root
from yrpd.deploying.deploy import observed
from yrpd.deploying.hosts import containers, transfer
from yrpd.deploying.hosts.engines import connect
from yrpd.deploying.image_source import BuildEngine
from yrpd.deploying.inventory import Host, load_inventory
from yrpd.deploying.preflight.engine_checks import inspect, lacking_image
from yrpd.deploying.preflight.fingerprints import fingerprinted
from yrpd.deploying.preflight.situation import Situation
from yrpd.deploying.reconcile import Change, decide
from yrpd.deploying.spec import ContainerSpec, Mount
from yrpd.docker.connection import by_manifest
from yrpd.docker.images import content_on
from yrpd.documents.image_record import ImageRecord
from yrpd.errors import DeployError, EnvironmentFailure, ImageError
from yrpd.reporting import Reporter


@dataclass(frozen=True)
class Store:
    """An engine with containerd's store, and an image that another engine, with Docker's own store, has made."""

    host: Host
    client: DockerClient
    builder: DockerClient
    image: ImageRecord

    def situation(self, spec: ContainerSpec, tmp_path: Path) -> Situation:
        """What preflight looks at when one container is created."""
        path = tmp_path / "hosts.toml"
        path.write_text(one_host(spec.deployment, self.host.engine, tmp_path))
        change = Change("create", HOST, spec.name, "", spec)
        source = BuildEngine(self.builder, self.image)
        return Situation(load_inventory(path), self.image, str(tmp_path), [change], {HOST: self.client}, source)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Store]:
    files = tmp_path_factory.mktemp("store")
    (files / "daemon.json").write_text(json.dumps({"features": {"containerd-snapshotter": True}}))
    # containerd's socket has to fit into 104 characters.
    with tempfile.TemporaryDirectory(prefix="yrpd-store-") as folder:
        host = Host(name=HOST, engine=f"unix://{folder}/docker.sock", address="127.0.0.1")
        line = ["dockerd", "--config-file", str(files / "daemon.json"), "-H", host.engine, "--pidfile", f"{folder}/pid"]
        line += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--bridge=none", "--iptables=false"]
        with (files / "dockerd.log").open("wb") as log:
            path = f"{docker_of_13() / 'bin'}:{os.environ['PATH']}"
            server = subprocess.Popen([*line, "--ip6tables=false"], stdout=log, stderr=log, env={"PATH": path})
        patience = Retrying(
            stop=stop_after_delay(60), wait=wait_fixed(0.2), retry=retry_if_exception_type(EnvironmentFailure)
        )
        try:
            client, builder = patience(connect, host), DockerClient(base_url=engine)
            assert by_manifest(client)
            assert not by_manifest(builder)
            image = made(builder, files / "root.tar")
            yield Store(host, client, builder, image)
            builder.images.remove(image.reference, force=True)
        finally:
            server.terminate()
            server.wait(60)
            # Where a container of it was on the host's network.
            subprocess.run(["umount", f"{folder}/exec/netns/default"], check=False, capture_output=True)


def made(builder: DockerClient, root: Path) -> ImageRecord:
    """Make an image that has a Python of its own."""
    write_python_root(root)
    reference = f"yrpd-test-{uuid.uuid4().hex[:8]}:1"
    name, _, tag = reference.partition(":")
    changes = ["ENV A=b", "LABEL x=y"]
    builder.api.import_image_from_data(root.read_bytes(), repository=name, tag=tag, changes=changes)
    image = builder.images.get(reference)
    return ImageRecord(reference, str(image.id), "cpu", "pin", "tree", content=content_on(image))


@pytest.fixture
def spec(store: Store, make_spec: Callable[..., ContainerSpec], tmp_path: Path) -> ContainerSpec:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights")
    image = store.image
    mounts = (Mount(str(tmp_path), "/models/m"),)
    return make_spec(
        role="prefill", image=image.reference, image_id=image.id, content=image.content, mounts=mounts, volumes=()
    )


def test_an_image_arrives_under_another_id_and_is_the_same(store: Store, spec: ContainerSpec, tmp_path: Path) -> None:
    situation = store.situation(spec, tmp_path)
    assert [host.name for host in lacking_image(situation)] == [HOST]
    transfer.move(store.builder, [store.host], store.image, Reporter())
    assert store.client.images.get(store.image.reference).id != store.image.id
    assert lacking_image(situation) == []
    assert inspect(situation) == []


def test_containers_of_it_run_the_planned_image_are_kept_and_survive_a_look(store: Store, spec: ContainerSpec) -> None:
    clients = {HOST: store.client}
    (told,) = fingerprinted([spec], clients)
    assert told.reads
    container = containers.start(store.client, told)
    try:
        (change,) = decide(fingerprinted([spec], clients), observed(spec.deployment, clients))
        assert (change.action, change.reason) == ("keep", "unchanged and running")
        newer = replace(spec, image="none:1", image_id="sha256:" + "0" * 64, content="")
        assert fingerprinted([newer], clients)[0].reads == told.reads
    finally:
        containers.end(container, 1)


def test_another_image_under_its_name_is_not_it(store: Store, spec: ContainerSpec) -> None:
    store.client.images.get(store.image.reference).tag("yrpd-test-kept:1")
    other = store.builder.containers.create(store.image.reference, ["true"])
    try:
        changed = other.commit(*store.image.reference.split(":"), changes=["ENV A=c"])
        store.client.images.load(b"".join(changed.save(named=store.image.reference)))
    finally:
        other.remove()
        store.builder.images.get(store.image.id).tag(store.image.reference)
    assert transfer.image_on(store.client, store.image) is None
    with pytest.raises(DeployError, match="has no image"):
        containers.start(store.client, spec)
    missing = replace(store.image, content="", id="sha256:" + "0" * 64)
    with pytest.raises(ImageError, match="has no"):
        transfer.move(store.builder, [store.host], missing, Reporter())
