"""The rig of the end-to-end tests: started once, shared by all of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import served_coverage
from tests.integration.engines import rig
from workshop.datasystem import Daemon, etcd, worker
from workshop.models import ensure_models
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter

if not rig.FULL and not served_coverage.paths():
    collect_ignore = ["test_held_up.py"]
#: Less than the end-to-end tests write: 500 blocks. What does not fit goes to disk and comes back.
MEMORY_MB = 32


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def store(home: Path) -> Iterator[Daemon]:
    """The etcd of both workers."""
    with etcd(home) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def workers(home: Path, store: Daemon) -> Iterator[dict[str, Daemon]]:
    """A DataSystem worker for each engine."""
    with ExitStack() as stack:
        started: dict[str, Daemon] = {}
        for name in rig.SCHEDULERS:
            folder = home / f"worker-{name}"
            folder.mkdir()
            # 5 s for a worker to count as lost, not the usual minute: a test waits for it.
            flags = [f"spill_directory={folder / 'spill'}", f"spill_size_limit={1 << 30}", "node_timeout_s=5",
                     "log_monitor_interval_ms=500"]  # fmt: skip
            started[name] = stack.enter_context(worker(folder, store.address, MEMORY_MB, flags))
        yield started


@pytest.fixture(scope="session")
def engines(home: Path, workers: dict[str, Daemon]) -> Iterator[dict[str, rig.Engine]]:
    """Plain vLLM and one engine per scheduler, started side by side."""
    project = Project.here()
    ensure_models(project, Reporter(), load_release(project.release_file).pin()[0])
    cores = {"plain": "0", "vllm": "1", "ascend": "0"}
    with ExitStack() as stack, ThreadPoolExecutor(len(cores)) as pool:

        def start(name: str) -> rig.Engine:
            folder = home / name
            folder.mkdir()
            scheduler = "" if name == "plain" else name
            address = workers[name].address if scheduler else ""
            figures = home / f"worker-{name}" / "datasystem" / "logs" / "resource.log"
            return stack.enter_context(rig.serving(folder, cores[name], scheduler, address, figures))

        yield dict(zip(cores, pool.map(start, cores), strict=True))


@pytest.fixture(scope="session")
def plain(engines: dict[str, rig.Engine]) -> rig.Reference:
    """What is right."""
    return rig.Reference(engines["plain"])


@pytest.fixture(params=list(rig.SCHEDULERS))
def engine(request: pytest.FixtureRequest, engines: dict[str, rig.Engine]) -> rig.Engine:
    """The engine with each scheduler in turn."""
    return engines[request.param]


@pytest.fixture
def near(engine: rig.Engine, engines: dict[str, rig.Engine], workers: dict[str, Daemon]) -> Daemon:
    """The worker that the engine is attached to."""
    return next(workers[name] for name in workers if engines[name] is engine)


@pytest.fixture
def far(engine: rig.Engine, engines: dict[str, rig.Engine], workers: dict[str, Daemon]) -> Daemon:
    """The other worker."""
    return next(workers[name] for name in workers if engines[name] is not engine)
