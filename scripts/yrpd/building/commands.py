"""``invoke build`` and ``invoke image.lock``, and the image alone: each returns its JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yrpd.building.cpu_image import make_stack, plan_stack
from yrpd.building.debian import cached_root
from yrpd.building.image_engine import ImageEngine
from yrpd.building.layers import Layer, explain
from yrpd.building.npu_base import lock_base, pinned_base, provide_base
from yrpd.building.npu_image import build_arguments, machine_of, make_context, plan_layer
from yrpd.building.openyuanrong import OpenYuanrong
from yrpd.building.rebuild import execute_build, plan_build
from yrpd.building.record import previous_inputs, write_record
from yrpd.building.runtime import Locks
from yrpd.docker.connection import connect
from yrpd.docker.images import content_on
from yrpd.documents.patched import Patched, load_patched
from yrpd.errors import ConfigurationError, ImageError
from yrpd.project import Project
from yrpd.release import Flavour, FlavourTable, Release, load_release
from yrpd.reporting import Reporter
from yrpd.wheels.wheelhouse import verify_present


def build(
    *, project: Project, reporter: Reporter, flavour: Flavour, pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Rebuild the patched tree and import the connector out of it.

    Raises:
        YrpdError: With its exit code: 2 no patched tree, 3 a wheel or tree is not the recorded one, 5 the rebuild
            or the import test failed.
    """
    release, patched = load_patched(project, pin)
    plan = plan_build(project, release, patched, flavour)
    if dry_run:
        for key, value in plan.document().items():
            reporter.say(f"{key}: {value}")
        return {**plan.document(), "state": "planned"}
    return execute_build(project, plan, reporter)


def image(
    *,
    project: Project,
    reporter: Reporter,
    flavour: Flavour,
    pin: str = "",
    openyuanrong: str = "",
    datasystem: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make the container image of a flavour, unless it is there.

    Raises:
        YrpdError: With its exit code: 2 no patched tree, or a wheel is given that does not fit, 3 a wheel is not the
            locked one, 6 the engine refused or failed, or no block would travel, 8 no engine answers.
    """
    release, patched = load_patched(project, pin)
    if datasystem and flavour == "cpu":
        message = "--datasystem is for the npu flavour: the cpu image's is in the lock of vLLM's environment."
        raise ConfigurationError(message, next_command="invoke image --flavour npu --datasystem FILE")
    make = _image_cpu if flavour == "cpu" else _image_npu
    variant = release.datasystem_variant(patched.name, flavour)
    return make(
        project, release, patched, OpenYuanrong.of(project, variant, openyuanrong, datasystem), reporter, dry_run
    )


def lock(
    *, project: Project, reporter: Reporter, flavour: Flavour, pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Resolve the base image's tag to a digest, through the engine's registry, and record it in release.toml.

    Raises:
        YrpdError: With its exit code: 2 the cpu flavour, whose base is made here, 6 the registry gives no digest, 8 no
            engine answers.
    """
    release = load_release(project.release_file)
    if flavour == "cpu":
        message = "The cpu image's base is made here with debootstrap; there is no digest to lock."
        raise ConfigurationError(message, next_command="invoke image.lock --flavour npu")
    name, _ = release.pin(pin)
    table = release.flavour(name, "npu")
    opened = ImageEngine(connect(), reporter, project.build / "logs" / "image-lock.log")
    with reporter.step(f"ask the registry for {table.base}"):
        document = lock_base(project, name, table, opened, dry_run=dry_run)
    reporter.say(f"    {document['base_digest']} ({document['state']})")
    if document["state"] != "unchanged" and document["previous"]:
        reporter.say(f"    was {document['previous']}: the tag was moved; look at what changed before you build")
    return document


def _image_cpu(
    project: Project, release: Release, patched: Patched, yuanrong: OpenYuanrong, reporter: Reporter, dry_run: bool
) -> dict[str, Any]:
    table = release.flavour(patched.name, "cpu")
    locks = Locks.of(project, table.runtime)
    for lock in (locks.runtime, locks.endpoint, yuanrong.lock):
        verify_present(project, lock)
    root = cached_root(project, table.base)
    stack = plan_stack(project, release, patched, locks, yuanrong, root)
    previous = previous_inputs(project, "cpu", patched.name)
    if dry_run:
        return _planned(reporter, list(stack.layers), explain(previous, stack.final.inputs))
    engine = _engine(project, patched, "cpu", reporter)
    found = engine.find(stack.final)
    if found:
        return _recorded(project, reporter, "cpu", patched, stack.final, found, stack.base.image, engine)
    _say(reporter, explain(previous, stack.final.inputs))
    made, image_id = make_stack(project, release, patched, locks, yuanrong, engine, reporter)
    reasons = explain(previous, made.final.inputs)
    return _recorded(project, reporter, "cpu", patched, made.final, image_id, made.base.image, engine, reasons)


def _image_npu(
    project: Project, release: Release, patched: Patched, yuanrong: OpenYuanrong, reporter: Reporter, dry_run: bool
) -> dict[str, Any]:
    table = release.flavour(patched.name, "npu")
    previous = previous_inputs(project, "npu", patched.name)
    if dry_run:
        missing = _missing_base(table, patched.name, reporter)
        base = table.base if missing else pinned_base(table)
        layer = plan_layer(project, release, patched, yuanrong, base)
        return {**_planned(reporter, [layer], explain(previous, layer.inputs)), "findings": missing}
    base = pinned_base(table, patched.name)
    engine = _engine(project, patched, "npu", reporter)
    base_id = provide_base(engine, table, reporter, patched.name)
    layer = plan_layer(project, release, patched, yuanrong, base_id)
    found = engine.find(layer)
    if found:
        return _recorded(project, reporter, "npu", patched, layer, found, base, engine)
    reasons = explain(previous, layer.inputs)
    _say(reporter, reasons)
    reporter.say(f"    {patched.kernels}")
    context = make_context(project, patched, table, yuanrong, machine_of(engine.client), reporter)
    with reporter.step(f"build {layer.image}"):
        image_id = engine.build(layer, context, "Dockerfile", build_arguments(release, patched, base_id))
    return _recorded(project, reporter, "npu", patched, layer, image_id, base, engine, reasons)


def _missing_base(table: FlavourTable, pin: str, reporter: Reporter) -> list[dict[str, str]]:
    """Say what a real run would refuse to start without."""
    try:
        pinned_base(table, pin)
    except ImageError as error:
        reporter.say(f"    in the way: {error.message} next: {error.next_command}")
        return [{"id": "base-digest", "problem": error.message, "fix": error.next_command}]
    return []


def _engine(project: Project, patched: Patched, flavour: Flavour, reporter: Reporter) -> ImageEngine:
    return ImageEngine(connect(), reporter, project.pin_build(patched.name) / "logs" / f"image-{flavour}.log")


def _recorded(
    project: Project,
    reporter: Reporter,
    flavour: Flavour,
    patched: Patched,
    layer: Layer,
    image_id: str,
    base: str,
    engine: ImageEngine,
    reasons: Sequence[str] = (),
) -> dict[str, Any]:
    """Record an image that was built for these reasons, or is as it was where there are none."""
    same = f"the engine has {layer.image} with the inputs digest {layer.digest[:12]}"
    reporter.say(f"{layer.image}  {image_id}" if reasons else f"{layer.image} is up to date: {same}")
    return write_record(
        project,
        flavour,
        patched,
        layer,
        image_id=image_id,
        content=content_on(engine.client.images.get(image_id)),
        base=base,
        state="built" if reasons else "unchanged",
        reasons=list(reasons) or [same],
    )


def _say(reporter: Reporter, reasons: list[str]) -> None:
    for reason in reasons:
        reporter.say(f"    because {reason}")


def _planned(reporter: Reporter, layers: list[Layer], reasons: list[str]) -> dict[str, Any]:
    for layer in layers:
        reporter.say(f"{layer.name}: {layer.image}")
        for name, value in layer.inputs.items():
            reporter.say(f"    {name}: {value}")
    _say(reporter, reasons)
    return {
        "state": "planned",
        "image": layers[-1].image,
        "inputs_digest": layers[-1].digest,
        "reasons": reasons,
        "layers": [{"name": one.name, "image": one.image, "inputs": dict(one.inputs)} for one in layers],
    }
