"""Figures of status, out of what vLLM, the connector and etcd say."""

from __future__ import annotations

import base64

import pytest

from tests.unit.deploying.inventories import CPU_IMAGE, NPU_IMAGE, SITE, shipped
from yrpd.deploying.inventory import Inventory
from yrpd.deploying.planning.planner import plan
from yrpd.deploying.spec import ContainerSpec
from yrpd.deploying.status.counters import breaker_is_open, read_counters
from yrpd.deploying.status.metrics import cache_figures, registered, tier_figures
from yrpd.deploying.status.status import tiers_text

METRICS = """\
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="a \\"quoted\\" name, with {braces}"} 0.6
vllm:kv_cache_usage_perc{engine="1",model_name="another engine of the group"} 0.7
# HELP vllm:prefix_cache_queries_total Prefix cache queries.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0"} 100.0
vllm:prefix_cache_queries_total{engine="1"} 300.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0"} 100.0
# TYPE yuanrong_queried_tokens_total counter
yuanrong_queried_tokens_total 1e3
# TYPE yuanrong_matched_tokens_total counter
yuanrong_matched_tokens_total 5e2
# TYPE yuanrong_loaded_blocks_total counter
yuanrong_loaded_blocks_total{reason="},{"} 3.0
yuanrong_loaded_blocks_total{reason="x"} 4.0
# TYPE yuanrong_breaker_open gauge
yuanrong_breaker_open 1.0
"""


def test_hit_rates_are_summed_over_engines_and_usage_is_their_mean() -> None:
    assert cache_figures(METRICS) == {"cache_usage": pytest.approx(0.65), "hit_rate": 0.25, "external_hit_rate": 0.5}


def test_figures_that_nobody_asked_for_yet_are_none_and_not_zero() -> None:
    assert cache_figures("") == {"cache_usage": None, "hit_rate": None, "external_hit_rate": None}


def test_tiers_are_told_by_share_and_bytes() -> None:
    reads = {"memory": 60, "disk": 30, "l2": 0, "remote": 10, "missing": 100}
    lines = ["# TYPE yuanrong_tier_reads_total counter"]
    lines += [f'yuanrong_tier_reads_total{{tier="{tier}"}} {count}' for tier, count in reads.items()]
    lines += ["# TYPE yuanrong_tier_bytes gauge", 'yuanrong_tier_bytes{tier="memory"} 2e6']
    lines += ['yuanrong_tier_bytes{tier="disk"} 5e6', ""]
    figures = tier_figures("\n".join(lines))
    assert figures == {
        "memory": {"reads": 60, "share": 0.6, "bytes": 2e6},
        "disk": {"reads": 30, "share": 0.3, "bytes": 5e6},
        "remote": {"reads": 10, "share": 0.1},
    }
    assert tiers_text(figures) == "memory 60% (2 MB), disk 30% (5 MB), remote 10%"
    assert tier_figures("") == {}
    assert tiers_text({}) == "-"


def test_counters_are_read_whatever_their_labels_hold() -> None:
    assert read_counters(METRICS)["loaded_blocks"] == 7
    assert read_counters(METRICS)["saved_blocks"] == 0
    assert breaker_is_open(METRICS)
    assert not breaker_is_open(METRICS.replace("breaker_open 1", "breaker_open 0"))


@pytest.fixture
def inventory() -> Inventory:
    return shipped("lab.toml")


def test_nodes_of_the_cluster_are_the_workers_whose_addresses_etcd_has(inventory: Inventory) -> None:
    keys = [
        b"/datasystem/cluster/10.77.0.2:31501",
        b"/datasystem/other/10.77.0.1:3150",
        b"\xff",
        b"/x/110.77.0.1:31501",
    ]
    answer = {"kvs": [{"key": base64.b64encode(key).decode()} for key in keys]}
    assert registered(inventory, answer) == ["10.77.0.2:31501"]
    assert registered(inventory, {}) == []


@pytest.mark.parametrize("name", ["lab.toml", "hosts.toml"])
def test_a_spec_comes_back_from_its_document_as_it_was(name: str) -> None:
    image = CPU_IMAGE if name == "lab.toml" else NPU_IMAGE
    for spec in plan(shipped(name), image, SITE):
        again = ContainerSpec.from_document(spec.document())
        assert again == spec
        assert again.digest == spec.digest
