"""Runs the suite: ``python -m tests.suite MODE [STAGE ...] [pytest options]``; `bash scripts/test.sh` calls it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from tests.suite.machine import lacking
from tests.suite.results import Result, counts, summary
from tests.suite.stages import Mode, Planned, Runner, announcement, plan, stages
from yrpd.project import Project
from yrpd.release import load_release

ENVIRONMENT_FAILURE = 8
_BIN = Path(sys.executable).parent
_SITE = sysconfig.get_path("purelib")
# The environments of `invoke build` have no test tools: those of .venv stand behind their packages.
_BEHIND = "import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))"


class Suite:
    """One run.

    Args:
        project: The checkout.
        options: pytest's, for every stage that has tests.
    """

    def __init__(self, project: Project, options: Sequence[str]) -> None:
        self._project = project
        self._options = tuple(options)
        self._results = project.build / "tests"
        self._emulated: tuple[str, Mapping[str, str]] | None = None

    def run(self, planned: Planned) -> Result:
        """Run a stage; what it prints is not held back."""
        stage = planned.stage
        if planned.lacking:
            return Result(stage.name, reason="; ".join(planned.lacking))
        began, busy = time.monotonic(), _busy()
        code = next((c for c in map(self._command, stage.commands) if c), 0)
        file = self._results / f"{stage.name}.xml"
        file.unlink(missing_ok=True)
        if not code and stage.runner is not Runner.COMMAND:
            code = self._pytest(planned, file)
        passed, failed, skipped = counts(file)
        return Result(stage.name, code, time.monotonic() - began, _busy() - busy, passed, failed, skipped)

    def _command(self, words: tuple[str, ...]) -> int:
        program, *rest = words
        ours = _BIN / program
        return self._call([str(ours) if ours.exists() else program, *rest], {"YRPD_FLAVOUR": "cpu"})

    def _pytest(self, planned: Planned, file: Path) -> int:
        stage, form = planned.stage, planned.form
        arguments = [f"--junitxml={file}", *form.arguments, *self._options]
        # What the caller has set goes before what a form sets.
        environment = {name: os.environ.get(name, value) for name, value in (form.environment or {}).items()}
        if stage.runner is Runner.TOOLS:
            return self._call([sys.executable, "-m", "pytest", *arguments], environment | {"YRPD_FLAVOUR": "cpu"})
        python = str(self._project.pin_build(stage.pin) / "venv-cpu" / "bin" / "python")
        if stage.runner is Runner.EMULATED:
            python, chosen = self._prepared()
            environment |= chosen
        else:
            environment |= {"VLLM_PLUGINS": ""}  # keeps the Ascend platform plugin out on a machine without an NPU
        return self._call([python, "-c", _BEHIND, _SITE, "-p", "no:cacheprovider", *arguments], environment)

    def _prepared(self) -> tuple[str, Mapping[str, str]]:
        """Make what the emulated NPU needs; its interpreter, and the variables that its tests need."""
        if self._emulated is None:
            words = [sys.executable, "tests/emulated_npu/prepare.py"]
            done = subprocess.run(
                words,
                env={**os.environ, "YRPD_FLAVOUR": "cpu", "PYTHONPATH": "scripts"},
                check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            said = json.loads(done.stdout)
            self._emulated = said["python"], said["variables"]
        return self._emulated

    def _call(self, words: Sequence[str], environment: Mapping[str, str]) -> int:
        return subprocess.run(words, env={**os.environ, **environment}, check=False).returncode


def _busy() -> float:
    """Processor seconds of all children that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def coverage(project: Project) -> int:
    """Report what the served requests of this run executed; the exit code is 2 below 95 %."""
    data = str(project.build / "coverage" / "all")
    tool = str(_BIN / "coverage")
    subprocess.run([tool, "combine", "--quiet", "--keep", "--data-file", data, str(Path(data).parent)], check=True)
    words = [tool, "report", "--data-file", data, "--show-missing", "--precision", "1", "--fail-under", "95"]
    return subprocess.run(words, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Announce, run and sum up.

    Returns:
        0, or 1 if something failed. Where the machine lacks what a stage needs, the stage is left out; with ``CI`` set
        that is a failure, too, 8.
    """
    mode, *rest = arguments
    packages = [word for word in os.environ.get("YRPD_TEST_PACKAGES", "").split() if word]
    project = Project.here()
    release = load_release(project.release_file)
    default = release.release.default_pin
    every = stages(default, (pin for pin in release.pins if pin != default))
    names = list(takewhile({stage.name for stage in every}.__contains__, rest))
    rest = rest[len(names) :]
    chosen = plan(every, Mode(mode), {}, names)
    needs = {need for each in chosen for need in each.stage.needs | each.form.needs}
    chosen = plan(every, Mode(mode), lacking(needs, packages), names)
    print(announcement(Mode(mode), chosen), flush=True)

    if mode == Mode.FULL:
        os.environ["YRPD_TEST_FULL"] = "1"
    if mode == Mode.COVERAGE:
        shutil.rmtree(project.build / "coverage", ignore_errors=True)
        (project.build / "coverage").mkdir(parents=True)
        os.environ |= {"SERVED_COVERAGE": str(project.build / "coverage"), "SERVED_COVERAGE_TOOLS": _SITE}
    suite, results, failed_builds = Suite(project, rest), list[Result](), set[str]()
    for number, each in enumerate(chosen, 1):
        stage = each.stage
        print(f"\n==> [{number}/{len(chosen)}] {stage.name}: {stage.title}", flush=True)
        if stage.pin in failed_builds:
            results.append(Result(stage.name, reason=f"invoke patch build --pin {stage.pin} failed"))
            continue
        results.append(suite.run(each))
        if stage.pin and stage.runner is Runner.COMMAND and not results[-1].is_good:
            failed_builds.add(stage.pin)
    code = 0 if all(each.is_good for each in results) else 1
    if not any(each.passed or each.failed for each in results):
        code = code or 1  # an option that selects no test of any stage is a mistake
    if mode == Mode.COVERAGE and not code:
        code = coverage(project)
    print(summary(results), flush=True)
    if not code and os.environ.get("CI") and any(each.reason for each in results):
        return ENVIRONMENT_FAILURE
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
