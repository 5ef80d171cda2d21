"""``invoke bench``: measure in the built environment, then report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from workshop.bench.runs.profiles import PAIR, choose, describe, profile_named
from workshop.endpoint import provide_endpoint
from workshop.models import ensure_models, models_folder
from yrpd.building.runtime import Locks
from yrpd.errors import ConfigurationError, EnvironmentFailure, YrpdError
from yrpd.project import Project, read_state
from yrpd.release import load_release
from yrpd.reporting import Reporter

_INNER = "import sys; sys.path.append(sys.argv.pop(1)); from workshop.bench.runs.inside_run import main; main()"


class RunFailed(YrpdError):
    """The measuring process failed; it has said why, and its exit code is this one's."""

    def __init__(self, code: int) -> None:
        super().__init__("The benchmark ended early; what it measured is kept.", next_command="invoke bench")
        self.exit_code = code  # type: ignore[misc] # the error class is the inner process's


def bench(
    project: Project,
    reporter: Reporter,
    profile: str,
    pin: str = "",
    model: str = "",
    fresh: bool = False,
    only: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Measure a profile, or those of its cases whose name a regular expression is found in, and report it.

    Raises:
        ConfigurationError: There is no such profile, case or model.
        EnvironmentFailure: The cpu environment was not built.
        BuildError: The default model could not be made.
        RunFailed: The measuring process failed.
    """
    from workshop.bench.reporting.commands import report  # matplotlib and scipy take a while to import

    planned = profile_named(profile)
    cases = choose(planned, only)
    release = load_release(project.release_file)
    name, _ = release.pin(pin)
    # Another pin's runs are never mixed with the default one's.
    of_pin = "" if name == release.release.default_pin else f"-{name}"
    folder = project.build / "bench" / "runs" / f"{profile}{of_pin}"
    if dry_run:
        table = Table("case", "prompts", "arms, by repetition")
        for each in describe(cases):
            table.add_row(each["case"], str(each["prompts"]), " · ".join(", ".join(turn) for turn in each["order"]))
        reporter.render(table)
        return {"state": "planned", "profile": profile, "pin": name, "folder": str(folder), "cases": describe(cases)}
    python = _python(project, name)
    weights = (Path(model) if model else models_folder(project) / planned.model).resolve()
    if not model:
        ensure_models(project, reporter, name)
    elif not (weights / "config.json").is_file():
        raise ConfigurationError(f"There is no model in {weights}.", next_command="invoke bench --model FOLDER")
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    command = f"invoke bench --profile {profile}" + (f" --model {model}" if model else "")
    command += f" --pin {pin}" if pin else ""
    command += f" --only '{only}'" if only else ""
    inner = [str(python), "-c", _INNER, sysconfig.get_path("purelib"), "--profile", profile]
    inner += ["--model", str(weights), "--folder", str(folder), "--command", command, "--only", only]
    if PAIR in planned.arms:
        inner += ["--envoy", str(_envoy(project, reporter, name))]
    environment = {
        **os.environ,
        "PYTHONPATH": str(project.root / "scripts"),
        "VLLM_PLUGINS": "",
        "VLLM_USE_V1": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    code = _run([*inner, *(["--verbose"] if reporter.verbose else [])], environment)
    if code:
        raise RunFailed(code)
    return report(project, reporter, str(folder))


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the inner half to its end; when this half is interrupted, so is it, and its engines end first."""
    # A session of its own: Ctrl-C reaches this half alone, which passes it on once.
    with subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise


def _envoy(project: Project, reporter: Reporter, pin: str) -> Path:
    """Return the images' Envoy, in an environment of its own."""
    release = load_release(project.release_file)
    folder = project.pin_build(pin)
    log = folder / "logs" / "endpoint.log"
    provide_endpoint(
        project, Locks.of(project, release.flavour(pin, "cpu").runtime), folder / "venv-endpoint", log, reporter
    )
    return folder / "venv-endpoint" / "bin" / "envoy"


def _python(project: Project, pin: str) -> Path:
    python: Path = project.root / read_state(project, pin).get("build-cpu", {}).get("python", "missing")
    if not python.is_file():
        raise EnvironmentFailure(
            f"The cpu environment of {pin} was not built.",
            next_command=f"invoke patch --pin {pin} build --flavour cpu --pin {pin}",
        )
    return python
