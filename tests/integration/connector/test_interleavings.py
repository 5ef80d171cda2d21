"""The real schedulers and the whole connector over random histories of clients, operators, DataSystem and time.

Each interleaving ends with every answer right, every KV block free, no state left and no budget exceeded; the package
``simulation`` says how that is known. A seed names an interleaving, the same in every run with ``PYTHONHASHSEED=0``.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from tests.integration.connector.simulation.scenario import SETUPS, interleave  # noqa: E402

SCALE = int(os.environ.get("YUANRONG_INTERLEAVINGS", "250"))
#: From so many on, the rarer events must have happened.
_MANY = 100


@pytest.mark.parametrize("name", list(SETUPS))
def test_any_interleaving_ends_with_right_answers_and_nothing_left(name: str, tmp_path: Path) -> None:
    totals: Counter[str] = Counter()
    for seed in range(SCALE):
        try:
            interleave(seed, SETUPS[name], tmp_path, totals)
        except BaseException:
            print(f"interleaving {name} with seed {seed}")
            raise
    print(name, dict(totals))
    assert totals["saved_blocks"] > 0, "saves must have happened"
    if SCALE < _MANY:
        return
    assert totals["loaded_blocks"] > SCALE, "loads must have happened"
    assert totals["drained"] > 0, "loads must have been aborted"
    assert totals["resumed"] > 0, "requests must have been preempted and resumed"
    for kind in ("load_failures", "save_failures"):
        assert any(cause.startswith(kind) for cause in totals), f"there must have been {kind}"
    causes = {"full", "late", "revoked", "unavailable"} - ({"late"} if SETUPS[name].form else set())  # no answer waits
    for cause in sorted(causes):
        assert totals[f"save_failures:{cause}"] > 0, f"a save must have failed as {cause}"
