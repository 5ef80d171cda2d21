"""The benchmark at a steady rate: its figures, and what it says to wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.deploying.inventories import GOOD
from workshop.bench import steady
from workshop.bench.patching import measure
from yrpd.deploying.inventory import load_inventory
from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.reporting import Reporter


@given(st.lists(st.floats(0.001, 100), min_size=1))
def test_a_spread_is_in_order_and_within_what_was_seen(seconds: list[float]) -> None:
    spread = steady.Spread.of(seconds)
    assert min(seconds) <= spread.median <= spread.slowest == max(seconds)
    assert spread.p99 <= spread.slowest
    assert spread.ratio >= 1
    assert spread.count == len(seconds)


def test_the_first_p_and_the_first_d_are_asked(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(GOOD, encoding="utf-8")
    inventory = load_inventory(hosts)
    addresses = {host.name: host.address for host in inventory.hosts}
    first, second = inventory.prefill[0], inventory.decode[0]
    assert steady.urls(inventory) == (
        f"http://{addresses[first.host]}:{first.port}", f"http://{addresses[second.host]}:{second.port}",
    )  # fmt: skip


@pytest.mark.parametrize("word", ["0", "-1", "nan"])
def test_no_time_and_no_period_are_refused(word: str) -> None:
    for option in ("--minutes", "--period"):
        with pytest.raises(SystemExit) as caught:
            steady.main([option, word])
        assert caught.value.code == 2


def test_an_inventory_that_is_not_there_and_a_model_that_is_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = tmp_path / "hosts.toml"
    with pytest.raises(SystemExit) as caught:
        steady.main(["--hosts", str(hosts), "--json"])
    assert caught.value.code == 2
    assert "does not exist" in json.loads(capsys.readouterr().out)["error"]
    hosts.write_text(GOOD.replace("build/models/tiny", str(tmp_path / "none")), encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        steady.main(["--hosts", str(hosts), "--json"])
    assert caught.value.code == 8
    assert json.loads(capsys.readouterr().out)["next"] == "invoke lab.up"


@pytest.mark.parametrize("rounds", [0, -1])
def test_patch_figures_of_no_round_are_refused(rounds: int) -> None:
    with pytest.raises(ConfigurationError, match="measure nothing"):
        measure(Project.here(), Reporter(), rounds=rounds)
