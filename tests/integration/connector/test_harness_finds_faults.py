"""The random interleavings find every mistake that the connector once had, within what CI runs of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from tests.integration.connector.simulation.faults import FAULTS, Fault  # noqa: E402
from tests.integration.connector.simulation.scenario import SETUPS, interleave  # noqa: E402

#: Seeds of every configuration that a mistake may take; CI runs ten times as many.
SEEDS = 25


def find(fault: Fault, folder: Path) -> tuple[int, str] | None:
    """Return how many interleavings a mistake took, seed by seed over all configurations, and what was seen of it."""
    count = 0
    for seed in range(SEEDS):
        for name, setup in SETUPS.items():
            count += 1
            try:
                interleave(seed, setup, folder, Counter(), [fault])
            except (AssertionError, KeyError, ValueError, RuntimeError, IndexError) as error:
                return count, f"{name} with seed {seed}: {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_mistake_that_is_put_back_is_found(fault: Fault, tmp_path: Path) -> None:
    found = find(fault, tmp_path)
    assert found is not None, f"{SEEDS * len(SETUPS)} interleavings did not find that {fault.what}"
    print(f"{fault.name}: {fault.what}: {found[0]} interleavings, {found[1]}")
