"""What is done to each container."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from yrpd.deploying.planner import plan
from yrpd.deploying.reconcile import Observed, decide
from yrpd.deploying.spec import ContainerSpec

from tests.unit.deploying.inventories import CPU_IMAGE, SITE, shipped

SPECS = plan(shipped("lab.toml"), CPU_IMAGE, SITE)


def running(spec: ContainerSpec) -> Observed:
    return Observed(spec.host, spec.name, spec.role, "running", 0, spec.digest, spec.image_id)


def actions(observed: list[Observed]) -> dict[tuple[str, str], str]:
    return {(each.host, each.name): each.action for each in decide(SPECS, observed)}


def test_empty_hosts_get_everything() -> None:
    assert {change.action for change in decide(SPECS, [])} == {"create"}


def test_equal_hosts_keep_everything_and_say_why() -> None:
    changes = decide(SPECS, [running(spec) for spec in SPECS])
    assert {change.action for change in changes} == {"keep"}
    assert {change.reason for change in changes} == {"unchanged and running"}


def test_another_image_replaces() -> None:
    changes = decide(SPECS, [replace(running(spec), image_id="sha256:other") for spec in SPECS])
    assert {change.action for change in changes} == {"replace"}
    assert all("another image" in change.reason for change in changes)


def test_a_worker_that_died_is_started_anew_with_the_vllm_beside_it_and_no_other() -> None:
    observed = [
        replace(running(spec), status="exited", exit_code=137)
        if (spec.host, spec.role) == ("host2", "worker")
        else running(spec)
        for spec in SPECS
    ]
    replaced = {key for key, action in actions(observed).items() if action == "replace"}
    assert replaced == {("host2", "yrpd-worker"), ("host2", "yrpd-decode-0")}


def test_an_etcd_that_died_takes_workers_and_vllm_along_but_not_what_clients_see() -> None:
    observed = [replace(running(spec), status="exited") if spec.role == "etcd" else running(spec) for spec in SPECS]
    kept = {key for key, action in actions(observed).items() if action == "keep"}
    assert kept == {("host1", "yrpd-router"), ("host1", "yrpd-endpoint")}


def test_what_the_inventory_no_longer_has_is_removed_last() -> None:
    extra = replace(running(SPECS[0]), name="yrpd-prefill-7", role="prefill")
    changes = decide(SPECS, [*(running(spec) for spec in SPECS), extra])
    assert (changes[-1].action, changes[-1].name, changes[-1].spec) == ("remove", "yrpd-prefill-7", None)


@given(st.lists(st.sampled_from(range(len(SPECS))), unique=True))
def test_deciding_again_after_doing_it_changes_nothing(present: list[int]) -> None:
    before = [running(SPECS[index]) for index in present]
    after = [running(change.spec) for change in decide(SPECS, before) if change.spec]
    assert {change.action for change in decide(SPECS, after)} == {"keep"}
