"""Which files P and D would load, read on real engines of every kind."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker import DockerClient

from tests.integration.deploying.conftest import HOST
from tests.integration.deploying.test_remote_engines import remote, ssh, tls_engine  # noqa: F401 - fixtures
from tests.integration.releasing.conftest import write_python_root
from yrpd.deploying.deploy import observed
from yrpd.deploying.hosts import containers
from yrpd.deploying.hosts.engines import connect
from yrpd.deploying.preflight.fingerprints import fingerprinted
from yrpd.deploying.reconcile import OTHER_FILES, UNCHANGED, decide
from yrpd.deploying.spec import ContainerSpec, Mount

FOREVER = ("python3", "-c", "import threading; threading.Event().wait()")


@pytest.fixture(params=["unix", "ssh", "tcp"])
def client(request: pytest.FixtureRequest) -> Iterator[DockerClient]:
    """A host's engine, reached in every way that an inventory has."""
    if request.param == "tcp":
        server = request.getfixturevalue("tls_engine")
        host = remote(server.engine, server.tls)
    else:
        engine = request.getfixturevalue("engine")
        host = remote(request.getfixturevalue("ssh").engine if request.param == "ssh" else engine)
    found = connect(host)
    yield found
    found.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("root") / "root.tar"
    write_python_root(path)
    return path.read_bytes()


@pytest.fixture
def image(request: pytest.FixtureRequest, client: DockerClient, root: bytes) -> Iterator[str]:
    """An image that has a Python of its own; return its name."""
    name = f"yrpd-test-{uuid.uuid4().hex[:8]}"
    near = client
    if request.node.callspec.params["client"] == "ssh":  # the same engine, and much slower
        near = DockerClient(base_url=request.getfixturevalue("engine"))
    near.api.import_image_from_data(root, repository=name, tag="1")
    yield f"{name}:1"
    client.images.remove(f"{name}:1", force=True)


@pytest.fixture
def engine_spec(
    client: DockerClient, image: str, deployment: str, make_spec: Callable[..., ContainerSpec], tmp_path: Path
) -> ContainerSpec:
    """A P that has loaded a model and an adapter, and has a secret."""
    mounts = []
    for name, target in (("model", "/models/m"), ("adapter", "/srv/a"), ("key", "/run/secrets/key")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.json").write_text("1")
        mounts.append(Mount(str(tmp_path / name), target))
    found = str(client.images.get(image).id)
    fields = {"role": "prefill", "image": image, "image_id": found, "argv": FOREVER, "volumes": ()}
    return make_spec(name=f"{deployment}-prefill", mounts=tuple(mounts), **fields)


def test_a_changed_model_or_adapter_exchanges_p_and_a_touch_or_another_secret_does_not(
    client: DockerClient, engine_spec: ContainerSpec, deployment: str, tmp_path: Path
) -> None:
    clients = {HOST: client}

    def decided() -> tuple[str, str]:
        (change,) = decide(fingerprinted([engine_spec], clients), observed(deployment, clients))
        return change.action, change.reason

    (told,) = fingerprinted([engine_spec], clients)
    assert len(told.reads) == 64
    containers.start(client, told)
    assert decided() == ("keep", UNCHANGED)
    os.utime(tmp_path / "model" / "file.json", (1, 1))
    (tmp_path / "key" / "file.json").write_text("2")
    assert decided() == ("keep", UNCHANGED)
    for name in ("model", "adapter"):
        (tmp_path / name / "file.json").write_text("2")
        assert decided() == ("replace", OTHER_FILES)
        (tmp_path / name / "file.json").write_text("1")
    # The container goes on seeing the folder that was there when it was made.
    (tmp_path / "model").rename(tmp_path / "old")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file.json").write_text("2")
    assert decided() == ("replace", OTHER_FILES)


def test_a_host_without_the_new_image_is_looked_at_in_the_one_that_runs_and_nothing_of_it_stays(
    client: DockerClient, engine_spec: ContainerSpec
) -> None:
    newer = replace(engine_spec, image="none:1", image_id="sha256:" + "0" * 64)
    assert fingerprinted([newer], {HOST: client})[0].reads == ""
    containers.start(client, engine_spec)
    before = len(client.containers.list(all=True))
    told = fingerprinted([newer, engine_spec], {HOST: client})
    assert told[0].reads == told[1].reads != ""
    assert len(client.containers.list(all=True)) == before


def test_a_folder_of_many_files_is_told_whole(client: DockerClient, engine_spec: ContainerSpec, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / "model" / f"layer-{number}.json").write_text(str(number))
    before = fingerprinted([engine_spec], {HOST: client})[0].reads
    (tmp_path / "model" / "layer-2999.json").write_text("other")
    assert fingerprinted([engine_spec], {HOST: client})[0].reads not in (before, "")


def test_what_cannot_be_mounted_or_asked_is_not_known(client: DockerClient, engine_spec: ContainerSpec) -> None:
    gone = replace(engine_spec, mounts=(*engine_spec.mounts, Mount("/no/such/adapter", "/no/such/adapter")))
    assert [spec.reads for spec in fingerprinted([gone], {HOST: client})] == [""]
    assert [spec.reads for spec in fingerprinted([engine_spec], {})] == [""]
