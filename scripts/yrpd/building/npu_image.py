"""The npu image: the tutorial's image with the series applied and rebuilt in it."""

from __future__ import annotations

from pathlib import Path

from yrpd.building.context import Context
from yrpd.building.cpu_image import release_labels, serving_context, stores_digest
from yrpd.building.layers import Layer, tag_version
from yrpd.building.openyuanrong import DATASYSTEM, LAUNCHER, OpenYuanrong, client_wheels, openyuanrong_wheels
from yrpd.docker.sdk import DockerClient
from yrpd.documents.patched import Patched, pin_listing
from yrpd.errors import ImageError
from yrpd.project import Project, hash_file
from yrpd.release import FlavourTable, Release
from yrpd.reporting import Reporter
from yrpd.wheels.locks import ENDPOINT, OPENYUANRONG, read_lock
from yrpd.wheels.wheelhouse import Target, provide, requirement_lines

SCRIPTS = ("apply_series.sh", "check_cann.sh", "rebuild.sh")
MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def sources(project: Project, patched: Patched, dockerfile: Path) -> Context:
    """Return all of the context but the wheels, which the locks stand for."""
    context = Context()
    context.add_file("Dockerfile", dockerfile)
    serving_context(context, project, "yrpd")
    for name in SCRIPTS:
        context.add_file(f"yrpd/{name}", project.docker / name)
    folder = project.patches(patched.name)
    for name in ("series", *patched.patches):
        context.add_file(f"series/{name}", folder / name)
    files, index = pin_listing(patched)
    context.add_bytes("series/files", files)
    context.add_bytes("series/index", index)
    return context


def plan_layer(project: Project, release: Release, patched: Patched, yuanrong: OpenYuanrong, base: str) -> Layer:
    """Return the npu image's layer.

    Args:
        project: The checkout.
        release: Its release file.
        patched: The patched tree.
        yuanrong: What openYuanrong's environment is made from.
        base: The base image's id, or its name while it is not known.
    """
    table = release.flavour(patched.name, "npu")
    dockerfile = project.root / table.dockerfile
    inputs = {
        "base": base,
        "pin": f"{patched.name} {patched.pin.commit}",
        "patched tree": patched.tree,
        "patched commit": patched.commit,
        "series": patched.series_digest,
        "version": patched.version,
        "SOC_VERSION": table.soc_version,
        "torch-npu": table.torch_npu or "",
        "kernels": _kernels(patched),
        "cann": table.cann,
        "npu.lock": yuanrong.client.sha256,
        "datasystem": yuanrong.given[DATASYSTEM].sha256 if DATASYSTEM in yuanrong.given else "locked",
        "openYuanrong environment": yuanrong.digest,
        LAUNCHER: hash_file(project.docker / LAUNCHER),
        "endpoint.lock": read_lock(project.docker / f"{ENDPOINT}.lock").sha256,
        dockerfile.name: hash_file(dockerfile),
        "context": sources(project, patched, dockerfile).digest,
    }
    prefix = f"{tag_version(patched.version)}-npu-"
    below = ("base", "cann", "npu.lock", "datasystem", "openYuanrong environment", LAUNCHER)
    stores = stores_digest(project, {name: inputs[name] for name in below})
    return Layer("npu", release.release.name, prefix, inputs, release_labels(release, patched, "npu", stores))


def build_arguments(release: Release, patched: Patched, base: str) -> dict[str, str]:
    """Return what Dockerfile.npu asks for; ``base`` is the base image's id or its name with a digest."""
    table = release.flavour(patched.name, "npu")
    return {
        "BASE": base,
        "PIN_TREE": patched.pin.tree,
        "RESULT_TREE": patched.tree,
        "VERSION": patched.version,
        "SOC_VERSION": table.soc_version,
        "KERNELS": _kernels(patched),
        "TORCH_NPU": table.torch_npu or "",
        "CANN": table.cann,
    }


def _kernels(patched: Patched) -> str:
    return "rebuild" if patched.compiled_changes else "keep"


def make_context(
    project: Project, patched: Patched, table: FlavourTable, yuanrong: OpenYuanrong, machine: str, reporter: Reporter
) -> Context:
    """Return the whole context, with the wheels for the engine's machine.

    Raises:
        ConfigurationError: The wheel that the engineer gave does not fit.
        PinMismatchError: A wheel is not the locked one.
        BuildError: openYuanrong's repair failed.
        ImageError: The DataSystem's client has no device plugin for the base's CANN.
    """
    context = sources(project, patched, project.root / table.dockerfile)
    context.add_file(f"wheelhouse/{LAUNCHER}", project.docker / LAUNCHER)
    environments = {
        "datasystem": client_wheels(project, yuanrong, table.cann, reporter, machine),
        "endpoint": provide(project, read_lock(project.docker / f"{ENDPOINT}.lock"), reporter, Target(machine)),
        OPENYUANRONG: openyuanrong_wheels(project, yuanrong, reporter, machine),
    }
    for name, wheels in environments.items():
        context.add_bytes(f"wheelhouse/{name}.txt", requirement_lines(wheels).encode("utf-8"))
        for one in wheels:
            context.add_file(f"wheelhouse/wheels/{one.file}", one.path, sha256=one.sha256)
    return context


def machine_of(client: DockerClient) -> str:
    """Return what the engine runs on: ``x86_64`` or ``aarch64``.

    Raises:
        ImageError: It is another machine, which no lock has wheels for.
    """
    architecture = str(client.info().get("Architecture", ""))
    if architecture not in MACHINES:
        message = f"The engine runs on {architecture!r}; there are wheels for x86_64 and aarch64 only."
        raise ImageError(message, next_command="docker info")
    return MACHINES[architecture]
