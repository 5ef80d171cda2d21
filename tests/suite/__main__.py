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
from concurrent.futures import ThreadPoolExecutor
from itertools import count, takewhile
from pathlib import Path
from threading import Lock
from typing import IO

from tests.suite.machine import lacking
from tests.suite.results import Result, counts, summary
from tests.suite.stages import Mode, Planned, Runner, announcement, in_turn, plan, stages
from yrpd.project import Project
from yrpd.release import load_release

ENVIRONMENT_FAILURE = 8
_BIN = Path(sys.executable).parent
_SITE = sysconfig.get_path("purelib")
# The environments of `invoke build` have no test tools: those of .venv stand behind their packages.
_BEHIND = "import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))"


class Running:
    """One stage of a run.

    Args:
        project: The checkout.
        planned: The stage.
        options: pytest's, for every stage that has tests.
        log: Where its output goes; None is where this process's goes.
    """

    def __init__(self, project: Project, planned: Planned, options: Sequence[str], log: IO[bytes] | None) -> None:
        self._project = project
        self._planned = planned
        self._options = tuple(options)
        self._log = log
        self._busy = 0.0

    def run(self) -> Result:
        """Run it to its end."""
        stage = self._planned.stage
        if self._planned.lacking:
            return Result(stage.name, reason="; ".join(self._planned.lacking))
        began = time.monotonic()
        code = next((c for c in map(self._command, stage.commands) if c), 0)
        file = self._project.build / "tests" / f"{stage.name}.xml"
        file.unlink(missing_ok=True)
        if not code and stage.runner is not Runner.COMMAND:
            code = self._pytest(file)
        passed, failed, skipped = counts(file)
        return Result(stage.name, code, time.monotonic() - began, self._busy, passed, failed, skipped)

    def _command(self, words: tuple[str, ...]) -> int:
        program, *rest = words
        ours = _BIN / program
        return self._call([str(ours) if ours.exists() else program, *rest], {"YRPD_FLAVOUR": "cpu"})

    def _pytest(self, file: Path) -> int:
        stage, form = self._planned.stage, self._planned.form
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
        words = [sys.executable, "tests/emulated_npu/prepare.py"]
        environment = {**os.environ, "YRPD_FLAVOUR": "cpu", "PYTHONPATH": "scripts"}
        done = subprocess.run(
            words, env=environment, check=True, stdout=subprocess.PIPE, stderr=self._log, text=True
        )  # fmt: skip
        said = json.loads(done.stdout)
        return said["python"], said["variables"]

    def _call(self, words: Sequence[str], environment: Mapping[str, str]) -> int:
        process = subprocess.Popen(words, env={**os.environ, **environment}, stdout=self._log, stderr=self._log)
        _, status, used = os.wait4(process.pid, 0)  # its processor time, and that of what it waited for
        process.returncode = os.waitstatus_to_exitcode(status)
        self._busy += used.ru_utime + used.ru_stime
        return process.returncode


class Suite:
    """One run.

    Args:
        project: The checkout.
        options: pytest's, for every stage that has tests.
        number: How many stages there are.
    """

    def __init__(self, project: Project, options: Sequence[str], number: int) -> None:
        self._project = project
        self._options = options
        self._number = number
        self._begun = count(1)
        self._failed_builds: set[str] = set()
        self._printing = Lock()

    def run(self, turn: Sequence[Sequence[Planned]]) -> list[Result]:
        """Run lanes beside each other.

        What a stage prints is not held back if nothing runs beside it. Else it is in a file, and is printed as a whole
        when the stage has ended.
        """
        if len(turn) == 1:
            return [self._stage(each, held_back=False) for each in turn[0]]
        with ThreadPoolExecutor(len(turn)) as pool:
            lanes = pool.map(lambda lane: [self._stage(each, held_back=True) for each in lane], turn)
            return [result for lane in lanes for result in lane]

    def _stage(self, planned: Planned, *, held_back: bool) -> Result:
        stage = planned.stage
        if stage.pin in self._failed_builds:
            return Result(stage.name, reason=f"invoke patch build --pin {stage.pin} failed")
        title = f"[{next(self._begun)}/{self._number}] {stage.name}: {stage.title}"
        if held_back:
            result = self._held_back(planned, title)
        else:
            print(f"\n==> {title}", flush=True)
            result = Running(self._project, planned, self._options, None).run()
        if stage.pin and stage.runner is Runner.COMMAND and not result.is_good:
            self._failed_builds.add(stage.pin)
        return result

    def _held_back(self, planned: Planned, title: str) -> Result:
        file = self._project.build / "tests" / f"{planned.stage.name}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._printing:
            print(f"\n==> {title}\n    beside others; tail -f {file.relative_to(self._project.root)}", flush=True)
        with file.open("w+b") as log:
            result = Running(self._project, planned, self._options, log).run()
            log.seek(0)
            with self._printing:
                print(f"\n<== {title}", flush=True)
                shutil.copyfileobj(log, sys.stdout.buffer)
                sys.stdout.flush()
        return result


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
    began, suite = time.monotonic(), Suite(project, rest, len(chosen))
    results = [result for turn in in_turn(chosen) for result in suite.run(turn)]
    clock = time.monotonic() - began
    code = 0 if all(each.is_good for each in results) else 1
    if not any(each.passed or each.failed for each in results):
        code = code or 1  # an option that selects no test of any stage is a mistake
    if mode == Mode.COVERAGE and not code:
        code = coverage(project)
    print(summary(results, clock), flush=True)
    if not code and os.environ.get("CI") and any(each.reason for each in results):
        return ENVIRONMENT_FAILURE
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
