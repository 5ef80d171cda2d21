"""Make what the emulated NPU needs, and print where it is as a JSON object.

Needs ``invoke patch build`` with the ``cpu`` flavour before it: that environment's vLLM is the 0.10.0 whose Python code
an NPU host runs, and its packages are locked by hash. What is added is the device's library and CANN's (g++), the file
that vllm-ascend's ``build_py`` writes (``develop`` does not, and only NPU code reads it), the tiny models, and the
images' ``envoy`` in an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from workshop.endpoint import provide_endpoint
from workshop.models import ensure_models, model_python
from yrpd.building.runtime import Locks
from yrpd.project import Project, read_state
from yrpd.release import load_release
from yrpd.reporting import Reporter

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.emulated_npu import cann, device


def write_build_info(python: Path, tree: Path, version: str, soc: str) -> None:
    """Let the tree's own setup write ``_build_info.py``, unless it is there.

    Args:
        python: Interpreter of the environment.
        tree: The patched tree.
        version: Its version, which setuptools-scm cannot find in a work tree.
        soc: SOC_VERSION of release.toml.
    """
    if (tree / "vllm_ascend" / "_build_info.py").exists():
        return
    variables = {"COMPILE_CUSTOM_KERNELS": "0", "SOC_VERSION": soc, "SETUPTOOLS_SCM_PRETEND_VERSION": version}
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [str(python), "setup.py", "-q", "build_py", "--build-lib", scratch],
            cwd=tree, env={**os.environ, **variables}, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip


def main() -> None:
    """Prepare; print the interpreter, and the environment variables that the tests need."""
    project = Project.here()
    release = load_release(project.release_file)
    pin, wanted = release.pin()
    patched = read_state(project, pin)["patch"]
    python = model_python(project, pin)
    reporter = Reporter(as_json=True)
    ensure_models(project, reporter, pin)
    endpoint = project.pin_build(pin) / "venv-endpoint"
    locks = Locks.of(project, release.flavours["cpu"].runtime)
    provide_endpoint(project, locks, endpoint, project.pin_build(pin) / "logs" / "endpoint.log", reporter)
    write_build_info(
        python, project.root / patched["worktree"], patched["version"], release.flavours["cpu"].soc_version
    )
    variables = {
        "PYTHONPATH": "tests/emulated_npu/site",
        "EMULATED_NPU_LIBRARY": str(device.build(python, project.cache)),
        "EMULATED_NPU_ENVOY": str(endpoint / "bin" / "envoy"),
        "VLLM_VERSION": wanted.vllm,
        **cann.variables(cann.build(project.cache)),
    }
    print(json.dumps({"python": str(python), "variables": variables}))


if __name__ == "__main__":
    main()
