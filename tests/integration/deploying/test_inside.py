"""Hosts seen from inside containers, on a real engine: two addresses of this machine are two hosts."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from docker import DockerClient

from yrpd.deploying.inventory import Host
from yrpd.deploying.preflight import findings
from yrpd.deploying.preflight import host_survey as surveying
from yrpd.deploying.preflight.host_survey import Survey
from yrpd.deploying.spec import ContainerSpec, Mount


@pytest.fixture
def hosts(engine: str) -> tuple[Host, Host]:
    return (
        Host(name="one", engine=engine, address="127.0.0.1"),
        Host(name="two", engine=engine, address="127.0.0.2"),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    with (folder / "1.safetensors").open("wb") as stream:
        stream.write(b"weights")
        stream.truncate(6 << 20)
    return folder


@pytest.fixture
def look(client: DockerClient, image: str, make_spec: Callable[..., ContainerSpec]) -> Callable[..., Survey]:
    def run(host: Host, folder: Path, port: int) -> Survey:
        spec = make_spec(port=port, mounts=(Mount("/usr", "/usr"), Mount(str(folder), "/tmp/model")))
        return surveying.look(client, host, image, [spec], spec.ports, "/tmp/model")

    return run


def test_a_host_tells_clock_disk_memory_ports_and_files(
    look: Callable[..., Survey], hosts: tuple[Host, Host], model: Path, free_port: Callable[[], int]
) -> None:
    survey = look(hosts[0], model, free_port())
    assert not list(findings.clock_findings("one", survey.report["time"], survey.before, survey.after))
    assert survey.report["disk_free"] > 0
    assert survey.report["memory_available"] > 0
    assert survey.report["busy_ports"] == {}
    assert set(survey.report["files"]) == {"1.safetensors", "config.json", "model.safetensors.index.json"}


def test_a_port_in_use_and_an_address_of_another_host_are_told_apart(
    look: Callable[..., Survey], hosts: tuple[Host, Host], model: Path, free_port: Callable[[], int]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
        assert look(hosts[0], model, port).report["busy_ports"] == {str(port): "EADDRINUSE"}
    foreign = hosts[0].model_copy(update={"address": "192.0.2.7"})
    port = free_port()
    assert look(foreign, model, port).report["busy_ports"] == {str(port): "EADDRNOTAVAIL"}


def test_models_that_differ_in_one_byte_at_the_end_of_a_large_file_are_told_apart(
    look: Callable[..., Survey], hosts: tuple[Host, Host], model: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    first, second = look(hosts[0], model, free_port()), look(hosts[1], other, free_port())
    assert not list(findings.different_models("/m", {"one": first.report["files"], "two": second.report["files"]}))
    with (other / "1.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"!")
    changed = look(hosts[1], other, free_port())
    (found,) = findings.different_models("/m", {"one": first.report["files"], "two": changed.report["files"]})
    assert (found.host, found.id) == ("two", "model-differs")


def test_the_ways_between_hosts_are_tried_on_the_ports_that_will_be_used(
    client: DockerClient,
    image: str,
    hosts: tuple[Host, Host],
    make_spec: Callable[..., ContainerSpec],
    free_port: Callable[[], int],
) -> None:
    specs = {host.name: [make_spec()] for host in hosts}
    closed = free_port()
    needed = {"one": [("127.0.0.2", specs["two"][0].ports[0])], "two": [("127.0.0.1", closed)]}
    before = len(client.containers.list(all=True))
    ways = surveying.try_ways({"one": client, "two": client}, hosts, image, specs, needed)
    assert ways["one"] == []
    assert [(address, port) for address, port, _ in ways["two"]] == [("127.0.0.1", closed)]
    assert len(client.containers.list(all=True)) == before
