"""What is done to each container."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.deploying.inventories import CPU_IMAGE, SITE, shipped
from yrpd.deploying.planning.planner import plan
from yrpd.deploying.reconcile import OTHER_IMAGE, Change, Observed, decide
from yrpd.deploying.rollout.rollout import one_at_a_time
from yrpd.deploying.spec import ContainerSpec

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


def test_another_image_alone_is_told_from_another_configuration() -> None:
    router = next(spec for spec in SPECS if spec.role == "router")
    old = replace(router, image_id="sha256:other")
    alone = next(each for each in decide([router], [running(old)]))
    assert (alone.action, alone.reason, alone.same_but_image) == ("replace", OTHER_IMAGE, True)
    both = next(each for each in decide([router], [running(replace(old, env=(("A", "b"),)))]))
    assert (both.reason, both.same_but_image) == (f"{OTHER_IMAGE} and its configuration changed", False)


def test_a_worker_that_died_is_started_anew_and_nothing_else_is() -> None:
    observed = [
        replace(running(spec), status="exited", exit_code=137)
        if (spec.host, spec.role) == ("host2", "worker")
        else running(spec)
        for spec in SPECS
    ]
    replaced = {key for key, action in actions(observed).items() if action == "replace"}
    assert replaced == {("host2", "yrpd-worker")}


def test_an_etcd_that_died_takes_workers_along_but_not_what_serves() -> None:
    observed = [replace(running(spec), status="exited") if spec.role == "etcd" else running(spec) for spec in SPECS]
    replaced = {key for key, action in actions(observed).items() if action == "replace"}
    assert replaced == {("host1", "yrpd-etcd"), ("host1", "yrpd-worker"), ("host2", "yrpd-worker")}


def test_another_memory_of_the_workers_leaves_vllm_as_it_is() -> None:
    inventory = shipped("lab.toml")
    table = inventory.datasystem.model_copy(update={"memory_mb": 2048})
    changes = decide(
        plan(inventory.model_copy(update={"datasystem": table}), CPU_IMAGE, SITE), [running(spec) for spec in SPECS]
    )
    assert {change.spec.role for change in changes if change.action == "replace" and change.spec} == {"worker"}


ROLES: dict[str, Change] = {
    spec.role: Change("replace", spec.host, spec.name, OTHER_IMAGE, spec, same_but_image=True) for spec in SPECS
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"router": replace(ROLES["router"], same_but_image=False)}, False),
        ({"endpoint": replace(ROLES["endpoint"], same_but_image=False)}, False),
        ({"prefill": replace(ROLES["prefill"], action="create")}, False),
        ({"decode": replace(ROLES["decode"], action="remove", spec=None)}, False),
        ({"worker": replace(ROLES["worker"], action="create")}, True),
        ({role: replace(change, action="keep") for role, change in ROLES.items()}, False),
        ({role: replace(ROLES[role], action="keep") for role in ("router", "endpoint", "etcd", "worker")}, True),
    ],
    ids=[
        "every image", "another router", "another endpoint", "a new P", "a D less", "a new worker", "nothing",
        "P and D",
    ],
)  # fmt: skip
def test_p_and_d_are_exchanged_one_by_one_where_the_router_would_choose_among_the_same(
    changes: dict[str, Change], expected: bool
) -> None:
    assert one_at_a_time(list({**ROLES, **changes}.values())) is expected


def test_what_the_inventory_no_longer_has_is_removed_last() -> None:
    extra = replace(running(SPECS[0]), name="yrpd-prefill-7", role="prefill")
    changes = decide(SPECS, [*(running(spec) for spec in SPECS), extra])
    assert (changes[-1].action, changes[-1].name, changes[-1].spec) == ("remove", "yrpd-prefill-7", None)


@given(st.lists(st.sampled_from(range(len(SPECS))), unique=True))
def test_deciding_again_after_doing_it_changes_nothing(present: list[int]) -> None:
    before = [running(SPECS[index]) for index in present]
    after = [running(change.spec) for change in decide(SPECS, before) if change.spec]
    assert {change.action for change in decide(SPECS, after)} == {"keep"}
