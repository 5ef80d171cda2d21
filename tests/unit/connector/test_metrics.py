# ruff: noqa: D101, D102 - stand-ins are named and shaped like what they stand in for
"""Counts reach the registry once, and never stand in the way."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from yuanrong import metrics


class Family:
    def __init__(self, name: str, text: str, labels: list[str] | None = None, **options: Any) -> None:
        self.name, self.options, self.log = name, options, []  # type: ignore[var-annotated]

    def labels(self, **labels: str) -> Family:
        self.log.append(labels)
        return self

    def inc(self, amount: float) -> None:
        self.log.append(amount)

    observe = set = inc


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("prometheus_client")
    for name in ("Counter", "Gauge", "Histogram"):
        setattr(module, name, Family)
    monkeypatch.setitem(sys.modules, "prometheus_client", module)
    monkeypatch.setattr(metrics, "_families", None)


CONTRACT = {
    "loaded_blocks", "saved_blocks", "loaded_bytes", "saved_bytes", "matched_tokens", "queried_tokens",
    "load_failures", "save_failures", "recomputed_requests", "load_seconds", "save_seconds", "breaker_open",
    "tier_reads", "tier_bytes",
}  # fmt: skip


@pytest.mark.usefixtures("library")
def test_all_names_of_the_contract_exist() -> None:
    sink = metrics.make_metrics(True)
    assert {f.name for f in sink._families.values()} == {f"yuanrong_{name}" for name in CONTRACT}
    assert sink._families["breaker_open"].options["multiprocess_mode"] == "livemax"
    assert metrics.make_metrics(True)._families is sink._families, "a second connector in the process shares them"


@pytest.mark.usefixtures("library")
def test_counts_arrive() -> None:
    sink = metrics.make_metrics(True)
    sink.add("loaded_blocks", 3)
    sink.add("loaded_blocks", 0)
    sink.fail("load_failures", "corrupt", 2)
    sink.fail("load_failures", "corrupt", 0)
    sink.observe("load_seconds", 0.5)
    sink.breaker(True)
    sink.breaker(False)
    sink.tier("disk", 4, 4096)
    sink.tier("remote", 1)
    assert sink._families["tier_reads"].log == [{"tier": "disk"}, 4, {"tier": "remote"}, 1]
    assert sink._families["tier_bytes"].log == [{"tier": "disk"}, 4096]
    assert sink._families["loaded_blocks"].log == [3]
    assert sink._families["load_failures"].log == [{"cause": "corrupt"}, 2]
    assert sink._families["load_seconds"].log == [0.5]
    assert sink._families["breaker_open"].log == [1, 0]


def test_without_the_library_or_when_switched_off_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setattr(metrics, "_families", None)
    for sink in (metrics.make_metrics(True), metrics.make_metrics(False)):
        sink.add("loaded_blocks")
        sink.fail("load_failures", "corrupt")
        sink.observe("load_seconds", 1)
        sink.tier("disk", 1, 1)
        sink.breaker(True)


def test_the_first_failure_of_each_cause_is_a_warning_also_without_a_registry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = metrics.make_metrics(enabled=False)
    for cause in ("error", "error", "missing", "revoked", "timeout"):
        sink.fail("save_failures", cause)
    sink.fail("load_failures", "error")
    told = [record.getMessage().split(";")[0] for record in caplog.records if record.levelname == "WARNING"]
    assert told == [
        "the first of save_failures with cause error",
        "the first of save_failures with cause timeout",
        "the first of load_failures with cause error",
    ]
