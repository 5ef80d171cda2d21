"""The patched vllm-ascend with vLLM's and torch's wheels of aarch64: what the image imports, and torch's blocks."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.aarch64.guest import Guest
from tests.aarch64.test_datasystem import COMPILER, Datasystem, Worker
from tests.emulated_npu import cann, device, engine
from tests.emulated_npu.copies import Copies
from yrpd.documents.patched import load_patched
from yrpd.project import Project

pytestmark = pytest.mark.full
QUIET = {"VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}


def test_the_import_test_of_the_image_passes(
    project: Project, root: Path, runtime: Path, vllm_ascend: tuple[Path, Path], datasystem: Datasystem
) -> None:
    _, patched = load_patched(project)
    guest = Guest(root, (*vllm_ascend, datasystem("0.8.0"), runtime), QUIET)
    script = str(project.docker / "import_connector.py")
    done = subprocess.run(
        guest.python(script, str(patched.worktree), patched.version),
        capture_output=True, text=True, check=False, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout.splitlines()[-1])
    assert proof["connector"] == "vllm_ascend.distributed.yuanrong.connector.YuanRongConnector"
    assert proof["version"] == patched.version


def test_blocks_of_torch_go_out_and_come_back_on_the_emulated_npu(
    project: Project,
    root: Path,
    runtime: Path,
    vllm_ascend: tuple[Path, Path],
    datasystem: Datasystem,
    worker: Worker,
    tmp_path: Path,
) -> None:
    packages = datasystem("0.8.0")
    (metadata,) = runtime.glob("torch-*.dist-info")
    version = metadata.name.removeprefix("torch-").removesuffix(".dist-info")
    library = device.compile_for(runtime / "torch", version, "1", project.cache, COMPILER)
    libraries = cann.build(project.cache, "8.2", COMPILER)
    variables = {
        **QUIET,
        "EMULATED_NPU_LIBRARY": str(library),
        **cann.variables(libraries, str(packages / "yr" / "datasystem" / "lib")),
    }
    guest = Guest(root, (engine.SITE, *vllm_ascend, packages, runtime), variables)
    with Copies(worker("0.8.0").address, tmp_path / "log", {}, {}, guest.python()) as copies:
        assert copies.call("trial") is None
        copies.call("write", block=1, number=3.0)
        assert copies.call("put", names=["torch"], blocks=[1]) == [None]
        assert copies.call("get", names=["torch", "absent"], blocks=[2, 3]) == [None, "missing"]
        assert copies.call("values", block=2) == [3.0]
        assert copies.call("pinned") == 0
        copies.call("write", block=1, number=4.0)
        assert copies.call("put", names=["stale"], blocks=[1], fence=False) == [None]
        assert copies.call("get", names=["stale"], blocks=[4]) == [None]
        assert copies.call("values", block=4) == [3.0], "nobody waited for the kernel"
