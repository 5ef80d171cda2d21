"""What is done to each container."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.deploying.inventories import CPU_IMAGE, SITE, running, shipped
from yrpd.deploying.planning.planner import plan
from yrpd.deploying.reconcile import OTHER_FILES, OTHER_IMAGE, UNCHANGED, Observed, decide, differences
from yrpd.deploying.spec import ContainerSpec

SPECS = list(plan(shipped("lab.toml"), CPU_IMAGE, SITE))


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
    endpoint = next(spec for spec in SPECS if spec.role == "endpoint")
    old = replace(endpoint, image_id="sha256:other")
    alone = next(each for each in decide([endpoint], [running(old)]))
    assert (alone.action, alone.reason, alone.same_but_image) == ("replace", OTHER_IMAGE, True)
    both = next(each for each in decide([endpoint], [running(replace(old, env=(("A", "b"),)))]))
    assert (both.reason, both.same_but_image) == (f"{OTHER_IMAGE} and its configuration changed", False)


READ = [replace(spec, reads="1" * 64) if spec.role in ("prefill", "decode") else spec for spec in SPECS]


def test_other_files_of_a_model_exchange_what_has_loaded_it_on_that_host_like_a_new_image() -> None:
    changed = [replace(spec, reads="2" * 64) if spec.role == "decode" else spec for spec in READ]
    changes = decide(changed, [running(spec) for spec in READ])
    assert [(each.name, each.reason) for each in changes if each.action != "keep"] == [("yrpd-decode-0", OTHER_FILES)]


@pytest.mark.parametrize(("before", "now"), [(READ, SPECS), (SPECS, READ)])
def test_files_that_nobody_could_read_then_or_now_exchange_nothing_and_that_is_said(
    before: list[ContainerSpec], now: list[ContainerSpec]
) -> None:
    changes = decide(now, [running(spec) for spec in before])
    assert {change.action for change in changes} == {"keep"}
    told = {change.name.split("-")[1] for change in changes if change.reason != UNCHANGED}
    assert told == {"prefill", "decode"}


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


def test_a_restart_policy_and_a_grace_are_changed_in_place_and_restart_nothing_that_needs_it() -> None:
    observed = [running(spec) for spec in SPECS]
    specs = [replace(spec, restart="unless-stopped", stop_seconds=61) for spec in SPECS]
    etcd = next(spec for spec in specs if spec.role == "etcd")
    specs = [replace(spec, needs=(etcd.need,)) if spec.needs else spec for spec in specs]
    changes = decide(specs, observed)
    assert {(change.action, change.reason) for change in changes} == {("update", "its restart policy is no")}
    done = [replace(each, restart="unless-stopped") for each in observed]
    assert {change.action for change in decide(specs, done)} == {"keep"}


def test_a_grace_alone_is_nothing_to_do() -> None:
    changes = decide([replace(spec, stop_seconds=99) for spec in SPECS], [running(spec) for spec in SPECS])
    assert {change.action for change in changes} == {"keep"}


def test_a_container_that_does_not_tell_what_it_was_made_with_is_made_anew() -> None:
    observed = [replace(running(spec), settled=None) for spec in SPECS]
    changes = decide([replace(spec, restart="always") for spec in SPECS], observed)
    assert {change.action for change in changes} == {"replace"}


def test_another_file_of_those_that_are_read_again_is_changed_in_place() -> None:
    spec = replace(SPECS[-1], live=(("/var/lib/a.json", "{}"), ("/var/lib/b.json", "[]")))
    observed = replace(running(spec), live=(("/var/lib/a.json", "{}"), ("/var/lib/b.json", "[1]")))
    (change,) = decide([spec], [observed])
    assert (change.action, change.reason) == ("update", "its b.json changed")


def test_another_image_of_which_a_worker_runs_the_same_leaves_its_pool_and_what_is_cached_there() -> None:
    old = plan(shipped("lab.toml"), replace(CPU_IMAGE, stores="s1"), SITE)
    observed = [running(spec) for spec in old]

    def replaced(stores: str) -> set[str]:
        newer = replace(CPU_IMAGE, id="sha256:" + "f" * 64, stores=stores)
        changes = decide(plan(shipped("lab.toml"), newer, SITE), observed)
        return {change.role for change in changes if change.action == "replace"}

    assert replaced("s1") == {"prefill", "decode", "endpoint"}
    newer = plan(shipped("lab.toml"), replace(CPU_IMAGE, id="sha256:" + "f" * 64, stores="s1"), SITE)
    roles = {spec.key: spec.role for spec in newer}
    assert {roles[key] for key, told in differences(newer, observed).items() if not told} == {"etcd", "worker"}
    assert replaced("s2") == replaced("") == {"etcd", "worker", "prefill", "decode", "endpoint"}
    assert {change.action for change in decide(plan(shipped("lab.toml"), CPU_IMAGE, SITE), observed)} == {"keep"}


def test_a_worker_is_the_same_but_for_its_image_when_its_etcd_is() -> None:
    newer = [replace(spec, image_id="sha256:newer") for spec in SPECS]
    etcd = next(spec for spec in newer if spec.role == "etcd")
    newer = [replace(spec, needs=(etcd.need,)) if spec.needs else spec for spec in newer]
    assert all(change.same_but_image for change in decide(newer, [running(spec) for spec in SPECS]))


def test_what_the_inventory_no_longer_has_is_removed_last() -> None:
    for name, role in (("yrpd-prefill-7", "prefill"), ("yrpd-router", "router")):
        extra = replace(running(SPECS[0]), name=name, role=role)
        changes = decide(SPECS, [*(running(spec) for spec in SPECS), extra])
        assert (changes[-1].action, changes[-1].name, changes[-1].spec) == ("remove", name, None)


@given(st.lists(st.sampled_from(range(len(SPECS))), unique=True))
def test_deciding_again_after_doing_it_changes_nothing(present: list[int]) -> None:
    before = [running(SPECS[index]) for index in present]
    after = [running(change.spec) for change in decide(SPECS, before) if change.spec]
    assert {change.action for change in decide(SPECS, after)} == {"keep"}
