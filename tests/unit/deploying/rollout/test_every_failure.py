"""Every call of a rollout, with all that can go wrong there: the old or the new serves, and one can go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.unit.deploying.rollout.fake_engines import KINDS, Call, FakeContainer, FakeEngine, Fault, Killed, World
from tests.unit.deploying.rollout.fleets import NEW, changed, container, deploy, fleet, make_world
from yrpd.deploying.hosts import records
from yrpd.deploying.rollout.audit import release_id
from yrpd.deploying.rollout.steps import ASIDE
from yrpd.deploying.spec import ENGINES, SPEC, ContainerSpec
from yrpd.docker.sdk import DockerException
from yrpd.errors import YrpdError

# A sample where seconds count; every call in `bash scripts/test.sh all`.
STRIDE = 1 if os.environ.get("YRPD_TEST_EXHAUSTIVE") else 9
LATER = (("LATER", "1"),)
BROKEN = (("BROKEN", "1"),)
CHANGING = ("stop", "rename", "create", "update", "put", "exec touch")


@dataclass(frozen=True)
class Scene:
    """A rollout.

    Attributes:
        before: What runs.
        after: What is wanted.
        fails: It cannot be reached, since something of it never becomes ready.
    """

    before: Sequence[ContainerSpec]
    after: Sequence[ContainerSpec]
    fails: bool = False


def _third_d_is_broken() -> list[ContainerSpec]:
    after = fleet(decode=3, image=NEW)
    return [replace(spec, env=BROKEN) if spec.name == "d-decode-2" else spec for spec in after]


SCENES: dict[str, Scene] = {
    "first": Scene((), fleet()),
    "image": Scene(fleet(), fleet(image=NEW)),
    "third D broken": Scene(fleet(decode=3), _third_d_is_broken(), fails=True),
    "P broken": Scene(fleet(), changed(fleet(image=NEW), "prefill", env=BROKEN), fails=True),
    "P and D together, P broken": Scene(
        fleet(), changed(changed(fleet(), "decode", env=LATER), "prefill", env=BROKEN), fails=True
    ),
    "another endpoint": Scene(fleet(), changed(fleet(), "endpoint", "prefill", "decode", env=LATER)),
    "a P more, a D less": Scene(
        fleet(), [*(spec for spec in changed(fleet(), "endpoint", env=LATER) if spec.name != "d-decode-1"),
                  container("prefill", 1, "host1", 8101)],
    ),
    "in place": Scene(fleet(), [
        replace(spec, restart="unless-stopped", live=tuple((path, "{2}") for path, _ in spec.live))
        for spec in changed(fleet(), "etcd", restart="unless-stopped")
    ]),
}  # fmt: skip


def never_ready(container: FakeContainer) -> bool:
    return dict(BROKEN).items() <= dict(container.options.get("environment") or {}).items()


@pytest.fixture
def play(world: World, tmp_path: Path) -> Callable[[Scene, Fault], tuple[dict[str, FakeEngine], BaseException | None]]:
    """Return what makes a world, brings it to a scene's beginning, and plays the scene with one fault."""
    begun: dict[int, list[tuple[object, ...]]] = {}

    def run(scene: Scene, fault: Fault) -> tuple[dict[str, FakeEngine], BaseException | None]:
        world.begin_anew(Fault(), never_ready)
        engines = make_world(world)
        if id(scene) not in begun:
            if scene.before:
                deploy(engines, scene.before, tmp_path)
            begun[id(scene)] = world.state()
        world.restore(begun[id(scene)])
        world.calls.clear()
        world.fault = fault
        try:
            deploy(engines, scene.after, tmp_path)
        except (YrpdError, DockerException, KeyboardInterrupt, Killed) as error:
            return engines, error
        return engines, None

    return run


def problems(
    scene: Scene, engines: dict[str, FakeEngine], error: BaseException | None, fault: Fault, calls: Sequence[Call]
) -> Iterator[str]:
    """Yield what of the invariant does not hold."""
    answering = {host: engine for host, engine in engines.items() if not engine.away}
    wanted = {spec.key: spec for spec in scene.after}
    kind, name = fault.kind, (fault.struck or ("", "", ""))[2]
    early = not any(what.startswith(CHANGING) and "lock" not in what for _, what, _ in calls[: fault.at])
    for spec in scene.before:
        if spec.host not in answering:
            continue
        now = running(answering[spec.host], spec.name)
        new = wanted.get(spec.key)
        fine = [each.digest for each in (spec, new) if each is not None]
        if new is None and now is None:
            continue  # it was to go
        if kind == "vanished" and name == spec.name and early:
            continue  # somebody else removed it before anything was begun
        if now is None or now.labels[SPEC] not in fine or not now.is_ready:
            yield f"{spec.title} is {now.labels[SPEC][:6] if now else 'not there'}"
    for host, engine in answering.items():
        names = {each.name for each in engine.there.values()}
        if "d-lock" in names:
            yield f"{host} is still locked"
        extra = {
            name
            for name in names
            if name.endswith(ASIDE)
            and name.removesuffix(ASIDE) not in names
            and (host, name.removesuffix(ASIDE)) in wanted
        }
        if extra:
            yield f"{host} has {extra} and not what it stands for"
    if error is None and (kind not in ("", "vanished") or scene.fails) and not all_new(scene, answering):
        yield "it says that it went well"


def all_new(scene: Scene, engines: dict[str, FakeEngine]) -> bool:
    specs = [spec for spec in scene.after if spec.host in engines]
    found = [running(engines[spec.host], spec.name) for spec in specs]
    return all(each and is_as(each, spec) for each, spec in zip(found, specs, strict=True))


def is_as(now: FakeContainer, spec: ContainerSpec) -> bool:
    """Return whether a container is what a spec says, made so or changed in place."""
    policy = now.policy["Name"] == spec.restart and all(now.true_live.get(path) == text for path, text in spec.live)
    return now.labels[SPEC] == spec.digest or (spec.restart != "no" and policy)


def running(engine: FakeEngine, name: str) -> FakeContainer | None:
    found = (each for each in engine.there.values() if each.name == name and each.true_status == "running")
    return next(found, None)


def record_problems(scene: Scene, engines: dict[str, FakeEngine]) -> Iterator[str]:
    """Yield what the record of a host that answers says and is not so."""
    for host, engine in engines.items():
        if engine.away:
            continue
        entries = records.recall(engine, "d")["entries"]  # type: ignore[arg-type]
        for change in entries[-1]["changes"] if entries and entries[-1]["release"] == release_id(scene.after) else []:
            spec = next((each for each in scene.after if each.key == (host, change["name"])), None)
            now = running(engine, change["name"])
            is_new = bool(now and spec and is_as(now, spec))
            if spec and is_new != (change["state"] == "done"):
                yield f"{host} records {change['name']} as {change['state']}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCENES)
def test_whatever_fails_wherever_what_ran_or_what_is_new_serves_and_the_next_deploy_completes(
    name: str,
    kind: str,
    world: World,
    play: Callable[[Scene, Fault], tuple[dict[str, FakeEngine], BaseException | None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    scene = SCENES[name]
    found: list[str] = []
    seen: dict[str, list[str]] = {}
    number = KINDS.index(kind) % STRIDE
    while True:
        fault = Fault(number, kind)
        engines, error = play(scene, fault)
        if fault.struck is None:
            break
        where = f"call {number}, {kind} at {fault.struck}"
        if not kind.startswith("SIGKILL"):
            found += [f"{where}: {each}" for each in problems(scene, engines, error, fault, world.calls)]
            found += [f"{where}: {each}" for each in record_problems(scene, engines)]
        elif scene.before:
            # A dead tool puts nothing back; but it never had more than one of a role's instances away.
            found += [f"{where}: no {role} is left" for role in ENGINES if scene_keeps(scene, engines, role)]
        state = repr([each[2:] for each in world.state() if not each[2].endswith("-record")])
        if state not in seen:
            seen[state] = list(again(scene, engines, world, tmp_path, monkeypatch))
        found += [f"{where}: the next deploy: {each}" for each in seen[state]]
        number += STRIDE
    record_property("pairs", number // STRIDE)
    assert number > 20
    assert not found, "\n".join(found[:20]) + f"\n{len(found)} in all, of {number}"


def scene_keeps(scene: Scene, engines: dict[str, FakeEngine], role: str) -> bool:
    """Return whether a role that has several instances, replaced one by one, has none that runs."""
    specs = [spec for spec in scene.before if spec.role == role]
    one_by_one = scene is SCENES["image"] or scene is SCENES["third D broken"] or scene is SCENES["in place"]
    return len(specs) > 1 and one_by_one and not any(running(engines[spec.host], spec.name) for spec in specs)


def again(
    scene: Scene, engines: dict[str, FakeEngine], world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Let another process deploy what can be reached, with every host there; yield what is not as it should be."""
    world.fault, world.dead = Fault(), False
    for engine in engines.values():
        engine.away = 0
    with monkeypatch.context() as patched:
        patched.setattr(records, "_began", lambda _: "another process")
        wanted = scene.before if scene.fails else scene.after
        try:
            deploy(engines, wanted, folder)
        except YrpdError as error:
            yield str(error)
            return
    for spec in wanted:
        now = running(engines[spec.host], spec.name)
        if now is None or not now.is_ready or (not is_as(now, spec)):
            yield f"{spec.title} does not run"
    known = {spec.name for spec in wanted} | {"d-record"}
    extra = {each.name for engine in engines.values() for each in engine.there.values()} - known
    if extra:
        yield f"{extra} are left"
