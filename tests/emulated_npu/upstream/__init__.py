"""vllm-ascend's own unit tests, run as upstream runs them but on the emulated NPU, and what became of each."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.emulated_npu.engine import environment

HERE = Path(__file__).parent
SECONDS = 900
BEHIND = "import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))"


@dataclass(frozen=True)
class Outcome:
    """What a run of the unit tests ended with; a test is ``module.class::name``.

    Attributes:
        passed: Tests that passed.
        others: Tests, or modules that cannot be imported, that did not.
    """

    passed: frozenset[str]
    others: frozenset[str]


@dataclass(frozen=True)
class Expected:
    """The list that the repository keeps.

    Attributes:
        passed: Tests that pass in the pinned tree.
        others: Tests that do not, to the reason.
        added: Tests that the series adds.
        removed: Tests that it takes away.
    """

    passed: frozenset[str]
    others: dict[str, str]
    added: frozenset[str]
    removed: frozenset[str]


def expected() -> Expected:
    """Return the kept list: ``passed.txt``, and ``differences.toml`` for the rest."""
    differences = tomllib.loads((HERE / "differences.toml").read_text("utf-8"))
    passed = frozenset((HERE / "passed.txt").read_text("utf-8").split("\n")) - {""}
    added, removed = (frozenset(differences[f"{what}-by-the-series"]) for what in ("added", "removed"))
    return Expected(passed, differences["do-not-pass"], added, removed)


def run(tree: Path, report: Path) -> Outcome:
    """Run ``tests/ut`` of a tree with that tree's vllm-ascend.

    Args:
        tree: The work tree, with ``_build_info.py`` in it.
        report: Gets pytest's JUnit report; its log lies beside it.
    """
    variables = environment()
    tools = next(path for path in reversed(sys.path) if path.endswith("site-packages"))  # behind the environment's own
    # The tree is before the one that `develop` installed, whose entry points then load this one.
    variables["PYTHONPATH"] = os.pathsep.join([str(tree), variables["PYTHONPATH"]])
    argv = [
        sys.executable, "-B", "-c", BEHIND, tools, "tests/ut", "--rootdir", str(tree),
        "-p", "no:cacheprovider", "-q", "--tb=short", "--continue-on-collection-errors", "--junitxml", str(report),
    ]  # fmt: skip
    with report.with_suffix(".log").open("w") as log:
        done = subprocess.run(argv, cwd=tree, env=variables, stdout=log, stderr=log, timeout=SECONDS, check=False)
    assert report.exists(), f"pytest ended with {done.returncode}; its log is {report.with_suffix('.log')}"
    passed: set[str] = set()
    others: set[str] = set()
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it just now
        name = f"{case.get('classname')}::{case.get('name')}".removeprefix("::")
        (others if any(child.tag in ("failure", "error", "skipped") for child in case) else passed).add(name)
    return Outcome(frozenset(passed - others), frozenset(others))
