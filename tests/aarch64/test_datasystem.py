"""The DataSystem of aarch64: its plugin on both generations of CANN, its worker, blocks that the connector moves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.aarch64.guest import Guest
from tests.emulated_npu import cann
from workshop.datasystem import Daemon
from yrpd.project import Project

HERE = Path(__file__).parent
COMPILER = "aarch64-linux-gnu-g++"
#: A version of the DataSystem with the generation of CANN that its plugin is for.
PAIRS = (("0.8.1", "8.5"), ("0.8.0", "8.2"))
#: Modules of the connector that need more than Python and the DataSystem; test_engine.py has vLLM for them.
LACKING = {"connector": "vllm", "schedulers": "vllm", "transport.copying": "numpy", "transport.host": "numpy"}

Datasystem = Callable[[str], Path]
Worker = Callable[[str], Daemon]


def npu(project: Project, root: Path, packages: Path, generation: str) -> Guest:
    """Programs that find a DataSystem, the connector, CANN's stand-ins and a device."""
    own = packages / "yr" / "datasystem" / "lib"
    libraries = cann.variables(cann.build(project.cache, generation, COMPILER), str(own))
    return Guest(root, (packages, project.root / "connector_src", HERE / "inside"), libraries)


@pytest.mark.parametrize(
    ("version", "generation", "word"),
    [
        ("0.8.1", "8.5", ""),
        ("0.8.0", "8.2", ""),
        ("0.8.1", "8.2", "undefined symbol: Ra"),
        ("0.8.0", "8.5", "undefined symbol: ra_"),
    ],
)
def test_the_plugin_loads_on_its_generation_of_cann_and_on_no_other(
    project: Project, root: Path, datasystem: Datasystem, version: str, generation: str, word: str
) -> None:
    packages = datasystem(version)
    plugin = packages / "yr" / "datasystem" / "lib" / "libacl_plugin.so"
    script = "import ctypes, platform, sys; ctypes.CDLL(sys.argv[1]); print(platform.machine())"
    said = npu(project, root, packages, generation).ask(script, str(plugin))
    assert (said.returncode, said.stdout) == ((0, "aarch64\n") if not word else (1, ""))
    assert word in said.stderr


@pytest.mark.parametrize(("version", "generation"), PAIRS)
def test_a_block_goes_out_and_comes_back(
    project: Project, root: Path, datasystem: Datasystem, worker: Worker, version: str, generation: str
) -> None:
    done = move(npu(project, root, datasystem(version), generation), worker(version))
    told = json.loads(done.stdout)
    imported = told.pop("imported")
    assert sorted(imported) == modules(project.root / "connector_src" / "yuanrong")
    assert {name: lacking for name, lacking in imported.items() if lacking} == LACKING
    assert told == {
        "machine": "aarch64",
        "policies": ["direct", "direct"],
        "trial": None,
        "saved": [None],
        "there": [True, False],
        "loaded": [None, "missing"],
        "bytes": [[1], [2], [3], [4]],
    }
    assert "a KV block went to the DataSystem and back" in done.stderr


def test_below_cann_8_5_no_block_of_0_8_1_travels_and_the_trial_says_so(
    project: Project, root: Path, datasystem: Datasystem, worker: Worker
) -> None:
    done = move(npu(project, root, datasystem("0.8.1"), "8.2"), worker("0.8.1"))
    told = json.loads(done.stdout)
    assert (told["trial"], told["saved"]) == ("error", ["error"])
    assert "KV blocks do not travel (error, transport npu)" in done.stderr
    assert re.search(cann.PLUGIN_NOT_LOADED, done.stderr), done.stderr


@pytest.mark.parametrize("version", [version for version, _ in PAIRS])
def test_the_worker_ends_at_once_on_pages_of_64_kib(
    root: Path, datasystem: Datasystem, tmp_path: Path, version: str
) -> None:
    """What preflight's `page-size` is about."""
    subprocess.run(
        [COMPILER, "-fPIC", "-shared", str(HERE / "inside" / "pages.cpp"), "-o", str(tmp_path / "pages.so"), "-ldl"],
        check=True,
    )
    package = datasystem(version) / "yr" / "datasystem"

    def say(**preloaded: str) -> subprocess.CompletedProcess[str]:
        guest = Guest(root, variables={"LD_LIBRARY_PATH": str(package / "lib"), **preloaded})
        command = guest.command(str(package / "datasystem_worker"), "--version")
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    assert f"version: {version}" in say().stdout
    ended = say(LD_PRELOAD=str(tmp_path / "pages.so"))
    assert ended.returncode == -signal.SIGABRT
    assert "Unsupported system page size" in ended.stderr


def move(guest: Guest, worker: Daemon) -> subprocess.CompletedProcess[str]:
    """Run ``inside/blocks.py``."""
    done = subprocess.run(
        guest.python(str(HERE / "inside" / "blocks.py"), worker.address),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def modules(package: Path) -> list[str]:
    """Return the names of a package's modules."""
    files = [file.relative_to(package).with_suffix("") for file in package.rglob("*.py")]
    names = [".".join(file.parts).removesuffix("__init__").removesuffix(".") for file in files]
    return sorted(name for name in names if name)
