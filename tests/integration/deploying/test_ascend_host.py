"""Preflight, whole, on a stand-in of an Ascend host: each thing that is wrong there is found by its name."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from docker import DockerClient

from tests.integration.one_host import one_host
from workshop.ascend_host import Npu, device_nodes, write_driver
from yrpd.deploying.image_source import BuildEngine
from yrpd.deploying.inventory import load_inventory
from yrpd.deploying.preflight import host_survey
from yrpd.deploying.preflight.engine_checks import inspect
from yrpd.deploying.preflight.findings import Finding
from yrpd.deploying.preflight.situation import Situation
from yrpd.deploying.reconcile import Change
from yrpd.deploying.spec import ContainerSpec, Mount
from yrpd.documents.image_record import ImageRecord

GROUP = 1007
WELL = (Npu(), Npu(address="10.1.0.2"))
# The image borrows /usr, where nothing may be written, so the tools lie where the engine puts its init.
INSIDE = {"npu-smi": "/sbin/npu-smi", "hccn_tool": "/sbin/hccn_tool", "hccn.conf": "/etc/hccn.conf"}
HOSTILE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>
long sysconf(int name) {
    long (*real)(int) = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
    return PAGES && name == _SC_PAGESIZE ? 65536 : real(name);
}
typedef int (*clock_reader)(clockid_t, struct timespec *);
int clock_gettime(clockid_t clock, struct timespec *now) {
    clock_reader real = (clock_reader)dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += LATE;
    return done;
}
"""

Look = Callable[..., list[Finding]]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A device plugin that loads; the image has no DataSystem."""
    return compiled(tmp_path / "libacl_plugin.so", "int loaded;")


@pytest.fixture
def look(
    tmp_path: Path,
    plugin: Path,
    client: DockerClient,
    engine: str,
    image: str,
    deployment: str,
    make_spec: Callable[..., ContainerSpec],
) -> Look:
    """Return what preflight finds for an engine with both NPUs of a host."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"hidden_size": 8}')
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "hosts.toml").write_text(one_host(deployment, engine, model))
    inventory = load_inventory(tmp_path / "hosts.toml")

    def run(
        npus: tuple[Npu, ...] = WELL,
        *,
        numbers: tuple[int, ...] = (0, 1),
        driver: str = "25.2.0",
        conf: str | None = None,
        groups: tuple[int, ...] = (GROUP,),
        without: str = "",
        shm_mb: int = 64,
        asked: DockerClient = client,
        role: str = "prefill",
        more: tuple[Mount, ...] = (),
        env: tuple[tuple[str, str], ...] = (),
    ) -> list[Finding]:
        write_driver(tmp_path / "driver", npus, driver=driver, conf=conf)
        mounts = [Mount(str(tmp_path / "driver" / name), inside) for name, inside in INSIDE.items() if name != without]
        mounts += [Mount("/usr", "/usr"), Mount(str(plugin), host_survey.PLUGIN), *more]
        with device_nodes(numbers, group=GROUP) as nodes:
            spec = replace(
                make_spec(role=role, mounts=tuple(mounts)),
                devices=nodes,
                shm_mb=shm_mb,
                env=env,
                groups=groups,
                capabilities=("DAC_READ_SEARCH",),
            )
            record = ImageRecord(image, image, "npu", "pin", "tree")
            change = Change("create", "here", spec.name, "it is not there", spec)
            found = Situation(inventory, record, str(model), [change], {"here": asked}, BuildEngine(client, record))
            return inspect(found)

    return run


def compiled(library: Path, text: str, *options: str) -> Path:
    source = library.with_suffix(".c")
    source.write_text(text)
    subprocess.run(["gcc", "-shared", "-fPIC", *options, "-o", str(library), str(source), "-ldl"], check=True)
    return library


def hostile(tmp_path: Path, *options: str) -> tuple[Mount, ...]:
    """Mounts by which every program of a container meets another kernel or another clock."""
    library = compiled(tmp_path / "hostile.so", HOSTILE, *options)
    (tmp_path / "ld.so.preload").write_text("/sbin/hostile.so\n")
    return (
        Mount(str(library), "/sbin/hostile.so"),
        Mount(str(tmp_path / "ld.so.preload"), "/etc/ld.so.preload"),
    )


@contextmanager
def kept(console: int) -> Iterator[None]:
    """Keep a console to this process, as a driver keeps an NPU."""
    node = f"/dev/tty{console}"
    held = os.open(node, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(held, termios.TIOCEXCL)
    try:
        yield
    finally:
        fcntl.ioctl(held, termios.TIOCNXCL)
        os.close(held)


def test_a_host_that_is_well_has_no_finding(look: Look) -> None:
    assert look() == []


@pytest.mark.parametrize(
    ("given", "name", "mends"),
    [
        pytest.param({"driver": "24.1.1"}, "driver-version", "install a newer Ascend HDK driver on here", id="1"),
        pytest.param({"groups": ()}, "device-permission", f"device_groups = [{GROUP}]", id="2"),
        pytest.param({"npus": (Npu(used_mb=60000), WELL[1])}, "npu-memory", "npu-smi info", id="3-memory"),
        pytest.param({"without": "npu-smi"}, "npu-smi", "npu-smi in driver_mounts", id="5"),
        pytest.param({"without": "hccn.conf"}, "hccn-conf", 'add "/etc/hccn.conf"', id="6"),
        pytest.param({"conf": "address_0=10.9.9.9\naddress_1=10.1.0.2\n"}, "hccn-differs", "-ip -s address", id="7"),
        pytest.param({"npus": (Npu(link="DOWN"), WELL[1])}, "npu-link", "hccn_tool -i 0 -link -g", id="8"),
        pytest.param({"npus": (Npu(tls=1), WELL[1])}, "npu-tls", "hccn_tool -i $i -tls -s enable 0", id="9"),
        pytest.param({"npus": (Npu(health="Alarm"), WELL[1])}, "npu-health", "npu-smi info -t health -i 0", id="21"),
        pytest.param({"npus": (Npu(name="Ascend910"), WELL[1])}, "npu-chip", "use hosts with Atlas A2", id="25-A3"),
        pytest.param({"npus": (Npu(name="310P3"), WELL[1])}, "npu-chip", "use hosts with Atlas A2", id="25-310P"),
    ],
)
def test_what_is_wrong_is_named_with_what_mends_it(look: Look, given: dict[str, object], name: str, mends: str) -> None:
    found = {each.id: each for each in look(**given)}
    assert name in found
    assert mends in found[name].fix
    # Without rights to the nodes no tool sees an NPU either; everything else is one finding.
    assert len(found) == 1 or name == "device-permission"


def test_an_npu_that_another_process_keeps_is_busy(look: Look) -> None:
    with kept(63):
        found = {each.id: each for each in look()}
    assert found["npu-busy"].problem == "/dev/davinci0 is in use by another process or container"
    assert "npu-smi info" in found["npu-busy"].fix


def test_ports_of_hccl_that_are_taken_are_found(look: Look) -> None:
    with socket.create_server(("127.0.0.1", 60000)):
        (found,) = look()
    assert found.id == "hccl-port"
    assert "HCCL_IF_BASE_PORT" in found.fix


def test_a_plugin_for_another_cann_is_found_by_the_name_it_lacks(look: Look, plugin: Path) -> None:
    compiled(plugin, "extern int RaInit(void); int loaded(void) { return RaInit(); }", "-Wl,-z,now")
    (found,) = look()
    assert found.id == "datasystem-plugin"
    assert "RaInit" in found.problem


def test_pages_of_64_kib_are_found(look: Look, tmp_path: Path) -> None:
    (found,) = look(role="worker", more=hostile(tmp_path, "-DPAGES=1", "-DLATE=0"))
    assert found.id == "page-size"
    assert "64 KiB" in found.problem


def test_a_clock_that_is_ahead_is_found(look: Look, tmp_path: Path) -> None:
    (found,) = look(more=hostile(tmp_path, "-DPAGES=0", "-DLATE=60"))
    assert found.id == "clock"
    assert "chronyc makestep" in found.fix


def test_npus_that_count_from_0_inside_are_named_by_the_hosts_numbers(look: Look) -> None:
    conf = "address_2=10.1.0.1\naddress_5=10.1.0.2\n"
    (found,) = look((WELL[0], replace(WELL[1], link="DOWN")), numbers=(2, 5), conf=conf)
    assert (found.id, found.problem) == ("npu-link", "the network of NPU 5 is DOWN")


def test_a_driver_library_that_the_host_lacks_is_found(look: Look, tmp_path: Path) -> None:
    missing = tmp_path / "driver" / "lib64"
    (found,) = look(more=(Mount(str(missing), "/lib64-of-the-driver"),))
    assert (found.id, found.problem) == ("mount", f"{missing} does not exist")
    assert "driver_mounts" in found.fix


def test_what_the_datasystems_clients_pin_counts_as_memory(look: Look, client: DockerClient) -> None:
    """Without the 2.5 GiB for each NPU this would fit, as it does with the connector's own way of copying."""
    has = int(client.info()["MemTotal"]) >> 20
    pool = 64  # of the inventory
    assert look(shm_mb=has - pool - 1024) == []
    (found,) = look(shm_mb=has - pool - 1024, env=(("DS_D2H_MEMCPY_POLICY", "ffts"),))
    assert found.id == "shared-memory"
    assert "and 5120 MiB that the DataSystem's clients pin for their NPUs" in found.problem


@contextmanager
def older(client: DockerClient, engine: str) -> Iterator[DockerClient]:
    """The same engine through a relay that makes its version one of 2018; all else passes as it is."""
    told = str(client.version()["Version"]).encode()
    older_version = b"18" + told[2:]

    def relay(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(1 << 20):
            target.sendall(data.replace(told, older_version))
        target.shutdown(socket.SHUT_WR)

    def serve(server: socket.socket) -> None:
        while True:
            try:
                asking, _ = server.accept()
            except OSError:
                return
            answering = socket.socket(socket.AF_UNIX)
            answering.connect(engine.removeprefix("unix://"))
            for pair in ((asking, answering), (answering, asking)):
                threading.Thread(target=relay, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        relayed = DockerClient(base_url=f"tcp://127.0.0.1:{server.getsockname()[1]}")
        try:
            yield relayed
        finally:
            relayed.close()
            server.shutdown(socket.SHUT_RDWR)


def test_an_engine_that_says_it_is_old_is_found(look: Look, client: DockerClient, engine: str) -> None:
    with older(client, engine) as relayed:
        (found,) = look(asked=relayed)
    assert found.id == "engine-version"
    assert "install Docker 20.10.10 or newer on here" in found.fix
