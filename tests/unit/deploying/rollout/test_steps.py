"""The order of a rollout, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.deploying.inventories import running
from tests.unit.deploying.rollout.fleets import NEW, changed, container, fleet
from yrpd.deploying.reconcile import Change, Observed, decide
from yrpd.deploying.rollout.steps import ASIDE, Unit, steps
from yrpd.deploying.spec import ENGINES, ContainerSpec


def planned(
    before: Sequence[ContainerSpec], after: Sequence[ContainerSpec], *gone: str, more: Sequence[Observed] = ()
) -> tuple[Unit, ...]:
    """Return the steps from what runs, but for the names that do not serve, to what is wanted."""
    observed = [*(running(spec) for spec in before), *more]
    serving = {spec.key for spec in before if spec.role in ENGINES and spec.name not in gone}
    return steps(decide(after, observed), serving)


def told(units: Sequence[Unit]) -> list[list[str]]:
    """Return each unit's batches: the verb, and the names without the deployment's."""
    last = units[-1].batches[-1]  # of what was there and stays
    return [
        [f"{batch[0].verb} {' '.join(step.change.name.removeprefix('d-') for step in batch)}" for batch in unit.batches]
        for unit in units
        if unit.batches != (last,) or any(step.verb != "await" for step in last)
    ]


def exchange(name: str) -> list[str]:
    return [f"{verb} {name}" for verb in ("drain", "set aside", "start", "await", "await choice of")]


def test_empty_hosts_get_all_in_the_order_in_which_one_needs_the_other() -> None:
    (unit,) = told(planned([], fleet()))
    assert unit == [
        "start etcd-0", "await etcd-0", "start worker-0 worker-1", "await worker-0 worker-1",
        "start prefill-0 decode-0 decode-1", "await prefill-0 decode-0 decode-1",
        "start endpoint-0", "await endpoint-0",
    ]  # fmt: skip


def test_another_image_replaces_stores_then_each_d_then_each_p_then_the_front() -> None:
    assert told(planned(fleet(), fleet(image=NEW))) == [
        ["set aside worker-0 worker-1", "set aside etcd-0", "start etcd-0", "await etcd-0",
         "start worker-0 worker-1", "await worker-0 worker-1"],
        exchange("decode-0"),
        exchange("decode-1"),
        exchange("prefill-0"),
        ["drain endpoint-0", "set aside endpoint-0", "start endpoint-0", "await endpoint-0"],
    ]  # fmt: skip


def test_a_new_image_replaces_each_alone_so_that_what_is_healthy_stays() -> None:
    units = planned(fleet(decode=3), fleet(decode=3, image=NEW))
    alone = [{step.change.key for batch in unit.batches for step in batch} for unit in units]
    # The last is the front, which has one container, too.
    assert [keys for keys in alone if len(keys) == 1][:-1] == [
        {("host2", "d-decode-0")}, {("host2", "d-decode-1")}, {("host2", "d-decode-2")}, {("host1", "d-prefill-0")}
    ]  # fmt: skip


def test_p_and_d_whose_configuration_changed_go_back_together_and_still_go_one_by_one() -> None:
    (unit,) = told(planned(fleet(), changed(fleet(), "prefill", "decode", env=(("A", "1"),))))
    assert unit == [*exchange("decode-0"), *exchange("decode-1"), *exchange("prefill-0")]


def test_what_does_not_serve_anyway_is_started_together_and_each_for_itself() -> None:
    units = planned(fleet(), changed(fleet(), "decode", env=(("A", "1"),)), "d-decode-1")
    assert told(units) == [
        ["drain decode-1", "set aside decode-1", "start decode-1", "await decode-1", "await choice of decode-1"],
        exchange("decode-0"),
    ]
    assert units[0].apart


def test_workers_alone_are_replaced_together_and_each_for_itself() -> None:
    units = planned(fleet(), changed(fleet(), "worker", env=(("A", "1"),)))
    assert told(units) == [["set aside worker-0 worker-1", "start worker-0 worker-1", "await worker-0 worker-1"]]
    assert units[0].apart


def test_one_more_is_ready_before_the_front_learns_of_it_and_one_less_leaves_the_front_first() -> None:
    front = changed(fleet(), "endpoint", live=(("/var/lib/endpoints.json", "{1}"),))
    after = [*(spec for spec in front if spec.name != "d-decode-1"), container("prefill", 1, "host1", 8101)]
    assert told(planned(fleet(), after)) == [
        ["start prefill-1", "await prefill-1"],
        ["update endpoint-0", "await choice of prefill-1"],
        ["drain decode-1", "set aside decode-1"],
    ]


def test_a_restart_policy_alone_restarts_nothing() -> None:
    after = [replace(spec, restart="unless-stopped") for spec in changed(fleet(), "etcd", restart="unless-stopped")]
    units = planned(fleet(), after)
    assert {step.verb for unit in units for batch in unit.batches for step in batch} == {"update", "await"}


def test_what_comes_waits_for_the_port_of_what_goes() -> None:
    moved = [replace(spec, name="d-decode-7") if spec.name == "d-decode-1" else spec for spec in fleet()]
    (unit,) = told(planned(fleet(), moved))
    assert unit[:3] == ["drain decode-1", "set aside decode-1", "start decode-7"]


def test_p_d_and_a_front_that_change_together_stop_together_and_the_front_is_drained_first() -> None:
    (unit,) = told(planned(fleet(), changed(fleet(), "prefill", "decode", "endpoint", env=(("A", "1"),))))
    assert unit[:3] == ["drain endpoint-0", "set aside endpoint-0", "set aside prefill-0 decode-0 decode-1"]


def test_what_a_killed_run_had_set_aside_is_what_comes_back() -> None:
    aside = replace(running(fleet()[-2]), name=f"{fleet()[-2].name}{ASIDE}", status="exited")
    before = [spec for spec in fleet() if spec.name != fleet()[-2].name]
    (unit,) = told(planned(before, fleet(), more=[aside]))
    assert unit == [f"{verb} decode-1" for verb in ("start", "await", "await choice of")]


def test_what_a_killed_run_had_set_aside_and_nobody_wants_goes() -> None:
    aside = replace(running(fleet()[-2]), name=f"d-decode-9{ASIDE}", status="exited")
    assert told(planned(fleet(), fleet(), more=[aside])) == [[f"remove decode-9{ASIDE}"]]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Observed], list[ContainerSpec], set[tuple[str, str]]]:
    """Draw what runs, what is wanted and what serves, of all sizes and changes."""
    before = fleet(draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    after = fleet(draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from(["sha256:old", NEW])))
    for role in draw(st.sets(st.sampled_from(["etcd", "worker", "prefill", "decode", "endpoint"]))):
        after = changed(after, role, env=(("A", "1"),))  # type: ignore[arg-type]
    there = [running(spec) for spec in before if draw(st.integers(0, 5))]
    there += [replace(each, name=f"{each.name}{ASIDE}") for each in there if not draw(st.integers(0, 5))]
    serving = {each.key for each in there if each.role in ENGINES and draw(st.booleans())}
    return there, after, serving


@given(situations())
def test_every_change_is_carried_out_once_and_in_an_order_that_makes_sense(
    situation: tuple[list[Observed], list[ContainerSpec], set[tuple[str, str]]],
) -> None:
    there, after, serving = situation
    changes = decide(after, there)
    order = [step for unit in steps(changes, serving) for batch in unit.batches for step in batch]
    done: dict[str, list[tuple[str, str]]] = {}
    for step in order:
        done.setdefault(step.verb, []).append(step.change.key)

    def keys(*actions: str, aside: bool = False) -> set[tuple[str, str]]:
        return {each.key for each in changes if each.action in actions and (aside or not each.name.endswith(ASIDE))}

    for verb, wanted in (
        ("start", keys("create", "replace")),
        ("set aside", keys("replace", "remove")),
        ("update", keys("update")),
        ("await", keys("create", "replace", "keep", "update")),
    ):
        assert sorted(done.get(verb, [])) == sorted(wanted)
    place: dict[tuple[str, tuple[str, str]], int] = {
        (step.verb, step.change.key): number for number, step in enumerate(order)
    }
    for change in changes:
        if change.action == "replace":
            assert place["set aside", change.key] < place["start", change.key] < place["await", change.key]
    _demand_order(changes, place)


def _demand_order(changes: Sequence[Change], place: dict[tuple[str, tuple[str, str]], int]) -> None:
    """What another needs is ready before that starts."""
    started = [change for change in changes if change.action in ("create", "replace")]
    etcds = [place["await", each.key] for each in started if each.role == "etcd"]
    workers = [place["start", each.key] for each in started if each.role == "worker"]
    assert all(etcd < worker for etcd in etcds for worker in workers)
    assert all(
        place["await", each.key] < place["start", other.key]
        for each in started
        for other in started
        if each.role in ("etcd", "worker") and other.role in ENGINES
    )
