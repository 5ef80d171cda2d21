"""``invoke build``: the patched tree installed into an environment, and the connector imported out of it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yrpd.building.develop import ARGUMENTS, METHOD, rebuild_environment
from yrpd.building.runtime import Locks, provide_environment, provide_npu_tools, uv_environment
from yrpd.building.toolbox import run_logged
from yrpd.documents.inputs import digest_of
from yrpd.documents.patched import Patched, edits
from yrpd.errors import BuildError
from yrpd.project import Project, exclusive, hash_file, read_state, update_state
from yrpd.release import Flavour, Release
from yrpd.reporting import Reporter

IN_IMAGE = "in the image: Dockerfile.npu rebuilds over the base image's kernels and ends with the import test"


@dataclass(frozen=True)
class BuildPlan:
    """What ``invoke build`` does, the same object for ``--dry-run`` and for doing it."""

    flavour: Flavour
    patched: Patched
    environment: Path
    log: Path
    soc_version: str
    runtime: str

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON."""
        return {
            "flavour": self.flavour,
            "pin": self.patched.name,
            "version": self.patched.version,
            "tree": self.patched.tree,
            "commit": self.patched.commit,
            "worktree": str(self.patched.worktree),
            "environment": str(self.environment),
            "kernels": self.patched.kernels,
            "import_test": "out of the rebuilt tree" if self.flavour == "cpu" else IN_IMAGE,
            "log": str(self.log),
        }


def plan_build(project: Project, release: Release, patched: Patched, flavour: Flavour) -> BuildPlan:
    """Return what a build would do; changes nothing."""
    folder = project.pin_build(patched.name)
    table = release.flavour(patched.name, flavour)
    return BuildPlan(
        flavour=flavour,
        patched=patched,
        environment=folder / f"venv-{flavour}",
        log=folder / "logs" / "build.log",
        soc_version=table.soc_version,
        runtime=table.runtime,
    )


def _install_tree(plan: BuildPlan, python: Path) -> None:
    environment = rebuild_environment(uv_environment(), plan.patched.version, plan.soc_version)
    # An egg-info of an earlier version would be found first.
    shutil.rmtree(plan.patched.worktree / "vllm_ascend.egg-info", ignore_errors=True)
    command = [str(python), *ARGUMENTS]
    run_logged(command, plan.log, what=METHOD, environment=environment, folder=plan.patched.worktree)
    edited = edits(plan.patched)
    if edited:
        message = f"{METHOD} left files in the work tree that git does not ignore: {edited[0]}."
        raise BuildError(message, next_command=f"git -C {plan.patched.worktree} status")


def _import_connector(project: Project, plan: BuildPlan, python: Path) -> dict[str, str]:
    script = project.docker / "import_connector.py"
    command = [str(python), str(script), str(plan.patched.worktree), plan.patched.version]
    environment = rebuild_environment(uv_environment(), plan.patched.version, plan.soc_version)
    output = run_logged(
        command, plan.log, what="the import test of the connector", environment=environment, folder=plan.log.parent
    )
    proof: dict[str, str] = json.loads(output.strip().splitlines()[-1])
    return proof


def _fingerprint(project: Project, plan: BuildPlan) -> str:
    """Return the digest of all that an installed tree depends on."""
    return digest_of(
        {
            "plan": plan.document(),
            "environment": (plan.environment / "yrpd.json").read_text(encoding="utf-8"),
            "import test": hash_file(project.docker / "import_connector.py"),
        }
    )


def _installed_from(environment: Path) -> str:
    """Return the tree that the environment has vllm-ascend from; empty when that is not known."""
    links = list(environment.glob("lib/python*/site-packages/vllm-ascend.egg-link"))
    return links[0].read_text(encoding="utf-8").splitlines()[0] if len(links) == 1 else ""


def _kept(project: Project, plan: BuildPlan, previous: Any) -> bool:
    return (
        isinstance(previous, dict)
        and (plan.environment / "yrpd.json").exists()
        and previous.get("fingerprint") == _fingerprint(project, plan)
        and _installed_from(plan.environment) == str(plan.patched.worktree)
        and (plan.patched.worktree / "vllm_ascend.egg-info" / "PKG-INFO").exists()
    )


def _rebuild_and_test(project: Project, plan: BuildPlan, reporter: Reporter) -> dict[str, Any]:
    python = plan.environment / "bin" / "python"
    with reporter.step(f"{METHOD}: vllm-ascend {plan.patched.version}"):
        _install_tree(plan, python)
    connector: dict[str, str] | str = IN_IMAGE
    if plan.flavour == "cpu":
        with reporter.step("import the connector out of the rebuilt tree"):
            connector = _import_connector(project, plan, python)
            reporter.say(f"    {connector['connector']} of vllm-ascend {connector['version']} from {connector['file']}")
    else:
        reporter.say(f"    import test: {IN_IMAGE}")
    return {"method": METHOD, "connector": connector}


def execute_build(project: Project, plan: BuildPlan, reporter: Reporter) -> dict[str, Any]:
    """Make the environment, install the tree into it, test it, and record it; what is as recorded is kept.

    Raises:
        BuildError: A step failed; the log is named.
        PinMismatchError: A wheel is not the locked one.
        EnvironmentFailure: Another build of this pin is going on.
    """
    with exclusive(project, plan.patched.name, "build"):
        stage = f"build-{plan.flavour}"
        previous = read_state(project, plan.patched.name).get(stage)
        if not _kept(project, plan, previous):  # else the log stays that of the build which is kept
            plan.log.parent.mkdir(parents=True, exist_ok=True)
            plan.log.write_text("", encoding="utf-8")
        reporter.say(f"    {plan.patched.kernels}")
        provide = provide_environment if plan.flavour == "cpu" else provide_npu_tools
        provide(project, Locks.of(project, plan.runtime), plan.environment, plan.log, reporter)
        if previous is not None and _kept(project, plan, previous):
            reason = f"vllm-ascend {plan.patched.version} is installed from this tree and its import test passed"
            reporter.say(f"    kept: {reason}")
            return {**previous, "state": "unchanged", "reasons": [reason]}
        document = {
            **{key: value for key, value in plan.document().items() if key not in ("environment", "worktree", "log")},
            **_rebuild_and_test(project, plan, reporter),
            "python": str((plan.environment / "bin" / "python").relative_to(project.root)),
            "host_python": sys.version.split()[0],
            "fingerprint": _fingerprint(project, plan),
        }
        update_state(project, plan.patched.name, stage, document)
        return {**document, "state": "built", "reasons": ["the tree or the environment is new"]}
