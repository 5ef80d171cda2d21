"""The cpu image, in four layers by how often they change: Debian, the runtime, openYuanrong, the patched tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yrpd.building.context import Context
from yrpd.building.debian import Root, provide_root
from yrpd.building.engines import Engine
from yrpd.building.layers import Layer, tag_version
from yrpd.building.openyuanrong import LAUNCHER, OpenYuanrong, add_wheels, openyuanrong_wheels
from yrpd.building.patched import Patched, archive
from yrpd.building.runtime import Locks, runtime_wheels
from yrpd.building.toolbox import find_tool
from yrpd.building.wheelhouse import Stored, hash_file, provide, requirement_lines
from yrpd.project import Project
from yrpd.release import Flavour, Release
from yrpd.reporting import Reporter

RUNTIME_DOCKERFILE = "Dockerfile.cpu-runtime"
OPENYUANRONG_DOCKERFILE = "Dockerfile.cpu-openyuanrong"
IMPORT_TEST = "import_connector.py"


@dataclass(frozen=True)
class CpuStack:
    """The four layers, each with the digest of the one below among its inputs."""

    base: Layer
    runtime: Layer
    openyuanrong: Layer
    final: Layer

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All of them, the lowest first."""
        return self.base, self.runtime, self.openyuanrong, self.final


def serving_context(context: Context, project: Project, prefix: str) -> None:
    """Add the part of this project's package that runs inside containers, and the import test."""
    package = project.root / "scripts" / "yrpd"
    files = [package / "__init__.py", package / "errors.py", *sorted((package / "serving").rglob("*.py"))]
    for path in files:
        context.add_file(f"{prefix}/yrpd/{path.relative_to(package)}", path)
    context.add_file(f"{prefix}/{IMPORT_TEST}", project.docker / IMPORT_TEST)


def final_context(project: Project, patched: Patched, dockerfile: Path) -> Context:
    """Return the context of the last layer: the patched tree, the serving package, the Dockerfile."""
    context = Context()
    context.add_archive("vllm-ascend", archive(patched))
    serving_context(context, project, "yrpd")
    context.add_file("Dockerfile", dockerfile)
    return context


def runtime_context(project: Project, vllm: tuple[Stored, ...], router: tuple[Stored, ...]) -> Context:
    """Return the context of the runtime layer: wheels, two requirement files, uv, the Dockerfile."""
    context = Context()
    context.add_file("Dockerfile", project.docker / RUNTIME_DOCKERFILE)
    context.add_file("wheelhouse/uv", Path(find_tool("uv")))
    for name, stored in (("vllm", vllm), ("router", router)):
        context.add_bytes(f"wheelhouse/{name}.txt", requirement_lines(stored).encode("utf-8"))
        for one in stored:
            context.add_file(f"wheelhouse/wheels/{one.wheel.file}", one.path, sha256=one.wheel.sha256)
    return context


def openyuanrong_context(project: Project, wheels: tuple[Stored, ...]) -> Context:
    """Return the context of openYuanrong's layer."""
    context = Context()
    context.add_file("Dockerfile", project.docker / OPENYUANRONG_DOCKERFILE)
    context.add_file("wheelhouse/uv", Path(find_tool("uv")))
    add_wheels(context, project, wheels)
    return context


def release_labels(release: Release, patched: Patched, flavour: Flavour) -> dict[str, str]:
    """Return the OCI labels of an image, and the pin's."""
    oci = "org.opencontainers.image"
    return {
        f"{oci}.title": f"{release.release.name}-{flavour}",
        f"{oci}.version": patched.version,
        f"{oci}.revision": patched.commit,
        f"{oci}.source": patched.pin.repository,
        f"{oci}.base.name": release.flavour(patched.name, flavour).base,
        f"{oci}.licenses": "Apache-2.0",
        "yrpd.flavour": flavour,
        "yrpd.pin": patched.name,
        "yrpd.pin-commit": patched.pin.commit or "",
        "yrpd.pin-tree": patched.pin.tree,
        "yrpd.tree": patched.tree,
        "yrpd.series": patched.series_digest,
    }


def plan_stack(
    project: Project, release: Release, patched: Patched, locks: Locks, yuanrong: OpenYuanrong, root: Root | None
) -> CpuStack:
    """Return the four layers.

    Args:
        project: The checkout.
        release: Its release file.
        patched: The patched tree.
        locks: What the runtime is made from.
        yuanrong: What openYuanrong's environment is made from.
        root: The Debian root; ``None`` while it was never made (then the digests are not final).
    """
    name = release.release.name
    suite = release.flavour(patched.name, "cpu").base
    base = Layer("base", f"{name}-base", f"{suite}-", {"Debian root": root.sha256 if root else "not made yet"}, {})
    runtime = Layer(
        "runtime",
        f"{name}-runtime",
        "cpu-",
        {
            "base": base.digest,
            "vLLM environment": locks.runtime_digest,
            "router.lock": locks.router.sha256,
            RUNTIME_DOCKERFILE: hash_file(project.docker / RUNTIME_DOCKERFILE),
        },
        {},
    )
    openyuanrong = Layer(
        "openyuanrong",
        f"{name}-openyuanrong",
        "cpu-",
        {
            "runtime": runtime.digest,
            "openYuanrong environment": yuanrong.digest,
            LAUNCHER: hash_file(project.docker / LAUNCHER),
            OPENYUANRONG_DOCKERFILE: hash_file(project.docker / OPENYUANRONG_DOCKERFILE),
        },
        {},
    )
    dockerfile = project.root / release.flavour(patched.name, "cpu").dockerfile
    context = final_context(project, patched, dockerfile)
    final = Layer(
        "cpu",
        name,
        f"{tag_version(patched.version)}-cpu-",
        {
            "openYuanrong": openyuanrong.digest,
            "pin": f"{patched.name} {patched.pin.state}",
            "patched commit": patched.commit,
            "patched tree": patched.tree,
            "series": patched.series_digest,
            "version": patched.version,
            "SOC_VERSION": release.flavour(patched.name, "cpu").soc_version,
            dockerfile.name: hash_file(dockerfile),
            "context": context.digest,
        },
        release_labels(release, patched, "cpu"),
    )
    return CpuStack(base, runtime, openyuanrong, final)


def make_stack(
    project: Project,
    release: Release,
    patched: Patched,
    locks: Locks,
    yuanrong: OpenYuanrong,
    engine: Engine,
    reporter: Reporter,
) -> tuple[CpuStack, str]:
    """Make what is missing of the four layers.

    Returns:
        The layers, and the id of the last one.

    Raises:
        ConfigurationError: The wheel that the engineer gave does not fit.
        ImageError: The engine refused or failed.
        BuildError: debootstrap or a wheel's repair failed.
        PinMismatchError: A wheel is not the locked one.
    """
    root = provide_root(
        project, release.flavour(patched.name, "cpu").base, engine.log.with_name("debootstrap.log"), reporter
    )
    stack = plan_stack(project, release, patched, locks, yuanrong, root)
    if engine.find(stack.openyuanrong):
        reporter.say(f"    kept {stack.openyuanrong.image}: locks, recipes and base are the same")
    else:
        _make_runtime(project, stack, locks, root, engine, reporter)
        wheels = openyuanrong_wheels(project, yuanrong, reporter)
        with reporter.step(f"build {stack.openyuanrong.image}"):
            context = openyuanrong_context(project, wheels)
            engine.build(stack.openyuanrong, context, "Dockerfile", {"RUNTIME": stack.runtime.image})
    with reporter.step(f"build {stack.final.image}"):
        arguments = {
            "BASE": stack.openyuanrong.image,
            "VERSION": patched.version,
            "SOC_VERSION": release.flavour(patched.name, "cpu").soc_version,
        }
        context = final_context(project, patched, project.root / release.flavour(patched.name, "cpu").dockerfile)
        image = engine.build(stack.final, context, "Dockerfile", arguments)
    return stack, image


def _make_runtime(
    project: Project, stack: CpuStack, locks: Locks, root: Root, engine: Engine, reporter: Reporter
) -> None:
    if engine.find(stack.runtime):
        reporter.say(f"    kept {stack.runtime.image}: locks, recipes and base are the same")
        return
    if not engine.find(stack.base):
        with reporter.step(f"import {stack.base.image}"):
            engine.import_root(stack.base, root.archive)
    vllm = runtime_wheels(project, locks, reporter)
    router = provide(project, locks.router, reporter)
    with reporter.step(f"build {stack.runtime.image} (some minutes, only when a lock or the base changes)"):
        context = runtime_context(project, vllm, router)
        engine.build(stack.runtime, context, "Dockerfile", {"BASE": stack.base.image})
