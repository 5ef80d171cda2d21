"""torch and torch-npu of aarch64, as on Ascend hosts: how far the published wheels go on CANN's stand-ins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.aarch64 import missing, packages
from tests.aarch64.conftest import AARCH64
from tests.aarch64.guest import Guest
from tests.emulated_npu import cann
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.wheels.locks import read_lock
from yrpd.wheels.wheelhouse import provide

pytestmark = pytest.mark.full
SECONDS = 900


@pytest.fixture(scope="module")
def torch(project: Project) -> Path:
    """The wheels of both, with what they import."""
    lock = read_lock(Path(__file__).with_name("torch-npu.lock"))
    return packages.unpack(project.cache, provide(project, lock, Reporter(), AARCH64))


@pytest.fixture(scope="module")
def host(project: Project, root: Path, torch: Path) -> Guest:
    """A host with CANN's names before 8.5, as both pins' base images have them."""
    libraries = cann.build(project.cache, "8.2", missing.COMPILER)
    more = missing.build(project.cache, torch, root, libraries)
    return Guest(root, (torch,), cann.variables(libraries, str(more)))


def test_torch_loads_torch_npu_by_itself_and_it_sees_the_devices(host: Guest) -> None:
    script = """
import json, platform, sys, torch
loaded = "torch_npu" in sys.modules
print(json.dumps([platform.machine(), torch.__version__, loaded, torch.npu.is_available(), torch.npu.device_count()]))
"""
    said = host.ask(script, seconds=SECONDS)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout.splitlines()[-1]) == ["aarch64", "2.7.1+cpu", True, True, 2]


def test_its_first_operator_goes_as_far_as_the_stand_ins(host: Guest) -> None:
    said = host.ask("import torch; print(torch.zeros(4, device='npu'))", seconds=SECONDS)
    assert said.returncode == 134
    assert "the CANN stand-in has no aclrtGetCurrentContext" in said.stderr


def test_without_cann_torch_itself_cannot_be_imported(root: Path, torch: Path) -> None:
    """Why the image's build keeps torch-npu out of its import test."""
    said = Guest(root, (torch,)).ask("import torch", seconds=SECONDS)
    assert said.returncode == 1
    assert "Failed to load the backend extension: torch_npu" in said.stderr
    assert "libhccl.so: cannot open shared object file" in said.stderr
