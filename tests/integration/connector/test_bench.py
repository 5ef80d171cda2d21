"""The benchmark of the scheduler's step, one short round: its arms load what they say, and it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from workshop.datasystem import datasystem

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")
pytest.importorskip("yr.datasystem.kv_client")

from workshop.bench import steps  # noqa: E402
from workshop.vllm_objects import with_transfers  # noqa: E402
from yrpd.errors import VerificationError  # noqa: E402


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STREAMS", (steps.Stream(prompt=300, answer=2, block_size=16, requests=3),))


@pytest.mark.usefixtures("short")
def test_a_round_with_hits_loads_every_full_block_and_ends(tmp_path: Path) -> None:
    with datasystem(tmp_path, 64) as address:
        figures = steps.figures(address, 1, tmp_path)
    assert {figure.name for figure in figures} >= {"step with hits / plain, mean", "added per request with hits"}


@pytest.mark.usefixtures("short")
def test_a_load_that_nobody_reports_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(scheduler: object, output: object) -> tuple[object, int]:
        result, loaded = pretend(scheduler, output)
        return with_transfers(result, set(), set()), loaded

    pretend = steps._pretend
    monkeypatch.setattr(steps, "_pretend", forget)
    with datasystem(tmp_path, 64) as address, pytest.raises(VerificationError, match="wait for ever"):
        steps.figures(address, 1, tmp_path)
