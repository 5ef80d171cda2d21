"""The main job, run once as a user would run it; every test here looks at what it left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.e2e.running import FULL, INVOKE, ROOT, Run, command, tail

# The long form alone has these; docs/faults.md and docs/operations.md keep what was seen.
_LONG = tuple(
    f"test_{name}.py" for name in ("other_pin", "placement", "release", "same_names", "new_image", "more_and_less")
)
collect_ignore = [] if FULL else list(_LONG)
LOGS = ROOT / "build" / "logs" / "e2e"


@pytest.fixture(scope="session")
def invoke() -> Callable[..., Run]:
    """Run Invoke tasks."""

    def run(*arguments: str, environment: Mapping[str, str] | None = None) -> Run:
        return command(INVOKE, *arguments, environment=environment)

    return run


@pytest.fixture(scope="session")
def quickstart() -> Iterator[Run]:
    """The README's first command, to its end; removed again after the last test."""
    LOGS.mkdir(parents=True, exist_ok=True)
    run = command("bash", "scripts/quickstart.sh")
    (LOGS / "quickstart.log").write_text(run.out + run.err, encoding="utf-8")
    yield run
    command(INVOKE, "deploy.clean", "lab.down")


@pytest.fixture(scope="session")
def report(quickstart: Run) -> dict[str, Any]:
    """The verification report that the quickstart wrote."""
    assert quickstart.code == 0, tail(quickstart)
    loaded: dict[str, Any] = json.loads((ROOT / "dist" / "verify.json").read_text(encoding="utf-8"))
    return loaded
