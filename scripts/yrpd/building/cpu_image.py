"""The cpu image, in three layers by how often they change: Debian, the runtime, the patched tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yrpd.building.context import Context
from yrpd.building.debian import Root, provide_root
from yrpd.building.engines import Engine
from yrpd.building.layers import Layer, tag_version
from yrpd.building.patched import Patched, archive
from yrpd.building.runtime import Locks, runtime_wheels
from yrpd.building.toolbox import find_tool
from yrpd.building.wheelhouse import Stored, hash_file, provide, requirement_lines
from yrpd.project import Project
from yrpd.release import Release
from yrpd.reporting import Reporter

RUNTIME_DOCKERFILE = "Dockerfile.cpu-runtime"
IMPORT_TEST = "import_connector.py"


@dataclass(frozen=True)
class CpuStack:
    """The three layers, each with the digest of the one below among its inputs."""

    base: Layer
    runtime: Layer
    final: Layer


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


def release_labels(release: Release, patched: Patched, flavour: str) -> dict[str, str]:
    """Return the OCI labels of an image, and the pin's."""
    oci = "org.opencontainers.image"
    return {
        f"{oci}.title": f"{release.release.name}-{flavour}",
        f"{oci}.version": patched.version,
        f"{oci}.revision": patched.commit,
        f"{oci}.source": patched.pin.repository,
        f"{oci}.base.name": release.flavours["cpu" if flavour == "cpu" else "npu"].base,
        f"{oci}.licenses": "Apache-2.0",
        "yrpd.flavour": flavour,
        "yrpd.pin": patched.name,
        "yrpd.pin-commit": patched.pin.commit or "",
        "yrpd.pin-tree": patched.pin.tree,
        "yrpd.tree": patched.tree,
        "yrpd.series": patched.series_digest,
    }


def plan_stack(project: Project, release: Release, patched: Patched, locks: Locks, root: Root | None) -> CpuStack:
    """Return the three layers.

    Args:
        project: The checkout.
        release: Its release file.
        patched: The patched tree.
        locks: What the runtime is made from.
        root: The Debian root; ``None`` while it was never made (then the digests are not final).
    """
    name = release.release.name
    suite = release.flavours["cpu"].base
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
    dockerfile = project.root / release.flavours["cpu"].dockerfile
    context = final_context(project, patched, dockerfile)
    final = Layer(
        "cpu",
        name,
        f"{tag_version(patched.version)}-cpu-",
        {
            "runtime": runtime.digest,
            "pin": f"{patched.name} {patched.pin.state}",
            "patched commit": patched.commit,
            "patched tree": patched.tree,
            "series": patched.series_digest,
            "version": patched.version,
            "SOC_VERSION": release.flavours["cpu"].soc_version,
            dockerfile.name: hash_file(dockerfile),
            "context": context.digest,
        },
        release_labels(release, patched, "cpu"),
    )
    return CpuStack(base, runtime, final)


def make_stack(
    project: Project, release: Release, patched: Patched, locks: Locks, engine: Engine, reporter: Reporter
) -> tuple[CpuStack, str]:
    """Make what is missing of the three layers.

    Returns:
        The layers, and the id of the last one.

    Raises:
        ImageError: The engine refused or failed.
        BuildError: debootstrap or the wheel repair failed.
        PinMismatchError: A wheel is not the locked one.
    """
    suite = release.flavours["cpu"].base
    root = provide_root(project, suite, engine.log.with_name("debootstrap.log"), reporter)
    stack = plan_stack(project, release, patched, locks, root)
    if not engine.find(stack.runtime):
        if not engine.find(stack.base):
            with reporter.step(f"import {stack.base.image}"):
                engine.import_root(stack.base, root.archive)
        vllm = runtime_wheels(project, locks, reporter)
        router = provide(project, locks.router, reporter)
        with reporter.step(f"build {stack.runtime.image} (some minutes, only when a lock or the base changes)"):
            context = runtime_context(project, vllm, router)
            engine.build(stack.runtime, context, "Dockerfile", {"BASE": stack.base.image})
    else:
        reporter.say(f"    kept {stack.runtime.image}: locks, recipes and base are the same")
    with reporter.step(f"build {stack.final.image}"):
        arguments = {
            "RUNTIME": stack.runtime.image,
            "VERSION": patched.version,
            "SOC_VERSION": release.flavours["cpu"].soc_version,
        }
        context = final_context(project, patched, project.root / release.flavours["cpu"].dockerfile)
        image = engine.build(stack.final, context, "Dockerfile", arguments)
    return stack, image
