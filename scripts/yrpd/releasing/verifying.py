"""The chain series -> tree -> image -> container, link by link, against a release folder.

Each function answers with links and raises only when it cannot look; what does not hold is a link that did not pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from yrpd.docker.failures import engine_failures
from yrpd.docker.images import is_same
from yrpd.docker.sdk import Container, DockerClient, Image, ImageNotFound, NotFound
from yrpd.documents.inputs import DIGEST_LABEL, digest_of
from yrpd.documents.manifest import Manifest, config_of
from yrpd.documents.release_folder import (
    CHECKSUMS,
    MANIFEST,
    PATCHES,
    PROVENANCE,
    SBOM,
    TARBALL,
    TREE,
    ReleaseFolder,
    listed_files,
    parse_checksums,
)
from yrpd.documents.series import LOCK, SERIES, load_lock, parse_series
from yrpd.errors import ConfigurationError, ImageError
from yrpd.git.mail import parse_changes
from yrpd.project import hash_file
from yrpd.releasing.archive import ArchiveFacts, ChunkReader, read_archive
from yrpd.releasing.image_load import unpacked
from yrpd.releasing.provenance import subjects, validate_provenance
from yrpd.releasing.sbom import validate_sbom
from yrpd.releasing.trees import TreeFile, parse_listing, tree_id, walk_files

TREE_FOLDER = "vllm-workspace/vllm-ascend"
# Where code is in an image; containers write elsewhere.
CODE = ("/opt", "/vllm-workspace")
SHOWN = 3
ADDED = 1
NO_BLOB = "0" * 40


@dataclass(frozen=True)
class Link:
    """One link of the chain.

    Attributes:
        name: What is held against what.
        passed: Whether it holds.
        detail: What was found.
    """

    name: str
    passed: bool
    detail: str


def verify_folder(folder: ReleaseFolder, manifest: Manifest) -> list[Link]:
    """Prove the folder in itself: checksums, series, tree, inputs, SBOM and provenance. The tarball is not read."""
    return [
        _checksums(folder),
        _series(folder, manifest),
        _tree(folder, manifest),
        _inputs(manifest),
        _documents(folder, manifest),
    ]


def verify_tarball(manifest: Manifest, path: Path) -> list[Link]:
    """Prove a tarball: its bytes, and every layer and the configuration in it, hashed again."""
    if manifest.tarball is None:
        return [Link("tarball", False, f"{MANIFEST} names none; invoke image.save makes it")]
    try:
        found = hash_file(path)
        expected = manifest.tarball.sha256
        wrong = f"sha256 expected {expected}, found {found}"
        links = [Link("tarball", found == expected, found if found == expected else wrong)]
        with path.open("rb") as stream:
            facts = read_archive(ChunkReader(unpacked(stream)), what=path.name)
    except OSError as error:
        return [Link("tarball", False, f"{path}: {error.strerror}")]
    except ImageError as error:
        return [*links, Link("tarball -> image", False, error.message)]
    faults = _archive_faults(facts, manifest)
    return [*links, Link("tarball -> image", not faults, "; ".join(faults) or facts.image_id)]


def verify_image(client: DockerClient, folder: ReleaseFolder, manifest: Manifest, reference: str) -> list[Link]:
    """Prove an image on an engine: its layers, configuration and labels, and the patched tree as it is on disk there.

    Nothing in the image is run: a container is created and read, not started.
    """
    with engine_failures(f"looking at {reference}"):
        try:
            image = client.images.get(reference)
        except ImageNotFound:
            return [Link("image", False, f"the engine has no {reference}")]
        link = _image(client, image, manifest, "image")
        container = client.containers.create(str(image.id), command=["nothing"], network_mode="none")
        try:
            files = dict(_container_files(container))
        finally:
            container.remove(v=True)
    return [link, _files("tree -> image", folder, files)]


def verify_container(client: DockerClient, folder: ReleaseFolder, manifest: Manifest, name: str) -> list[Link]:
    """Prove a container: the image that it was made from, its code as it is now, and that no mount hides it."""
    with engine_failures(f"looking at the container {name}"):
        try:
            container = client.containers.get(name)
        except NotFound:
            return [Link("container", False, f"the engine has no container {name}")]
        try:
            image = client.images.get(container.attrs["Image"])
        except ImageNotFound:
            made = container.attrs["Image"]
            return [Link("image -> container", False, f"{name} was made from {made}, which the engine lost")]
        link = _image(client, image, manifest, "image -> container")
        files = dict(_container_files(container))
        changed = _changed_code(container)
    return [
        link,
        _files("tree -> container", folder, files),
        Link("container's code", not changed, _shown(changed) or f"{name} runs what its image has"),
    ]


def _checksums(folder: ReleaseFolder) -> Link:
    expected = parse_checksums(folder.read(CHECKSUMS).decode())
    faults = [f"{name} is in no list" for name in listed_files(folder.path) if name not in expected]
    for name, digest in sorted(expected.items()):
        path = folder.path / name
        if name == TARBALL:  # a large file, and a link of its own
            continue
        if not path.exists():
            faults.append(f"{name} is missing")
        elif hash_file(path) != digest:
            faults.append(f"{name} was changed")
    return Link("files", not faults, _shown(faults) or f"{len(expected)} files are those of {CHECKSUMS}")


def _series(folder: ReleaseFolder, manifest: Manifest) -> Link:
    """The patches are the lock's, the lock is the manifest's."""
    try:
        lock = load_lock(folder.path / PATCHES)
    except ConfigurationError as error:
        return Link("series", False, error.message)
    names, _ = parse_series(folder.read(f"{PATCHES}/{SERIES}").decode())
    faults = []
    if names != tuple(one.file for one in lock.patches):
        faults.append(f"{SERIES} has another order than {LOCK}")
    for one in lock.patches:
        if not (folder.path / PATCHES / one.file).exists() or hash_file(folder.path / PATCHES / one.file) != one.sha256:
            faults.append(f"{one.file} is not the locked patch")
    if lock.digest != manifest.series_digest:
        faults.append(f"{LOCK} is {lock.digest[:12]}, {MANIFEST} says {manifest.series_digest[:12]}")
    if (lock.pin.commit, lock.pin.tree) != (manifest.upstream.commit, manifest.upstream.tree):
        faults.append(f"{LOCK} is for another pin than {MANIFEST}")
    if (lock.end.commit, lock.end.tree) != (manifest.commit, manifest.tree):
        faults.append(f"{LOCK} ends at tree {lock.end.tree}, {MANIFEST} says {manifest.tree}")
    return Link("series", not faults, _shown(faults) or f"{len(names)} patches, digest {lock.digest}")


def _tree(folder: ReleaseFolder, manifest: Manifest) -> Link:
    """The listing has the locked tree id, and every file that a patch leaves is in it as the patch declares it."""
    files = _listing(folder)
    found = tree_id(files)
    faults = [] if found == manifest.tree else [f"{TREE} is tree {found}, the series ends at {manifest.tree}"]
    last: dict[str, str] = {}
    for one in manifest.patches:
        with contextlib.suppress(ImageError):  # a missing patch breaks the link before
            last |= {change.path: change.new for change in parse_changes(folder.read(f"{PATCHES}/{one.file}"))}
    for path, blob in sorted(last.items()):
        there = files[path].blob if path in files else NO_BLOB
        if there != blob:
            faults.append(f"{path} is not what the series leaves")
    return Link("series -> tree", not faults, _shown(faults) or f"tree {found}, {len(last)} files by the series")


def _inputs(manifest: Manifest) -> Link:
    faults = []
    if digest_of(manifest.inputs) != manifest.inputs_digest:
        faults.append("the inputs have another digest")
    if manifest.config.labels.get(DIGEST_LABEL) != manifest.inputs_digest:
        faults.append(f"the label {DIGEST_LABEL} is of another image")
    for name, value in (("series", manifest.series_digest), ("patched tree", manifest.tree)):
        if manifest.inputs.get(name) != value:
            faults.append(f"the image was made from another {name}")
    return Link("tree -> inputs", not faults, _shown(faults) or f"inputs digest {manifest.inputs_digest}")


def _documents(folder: ReleaseFolder, manifest: Manifest) -> Link:
    faults = []
    sbom = folder.read(SBOM)
    fault = validate_sbom(sbom.decode())
    if fault:
        faults.append(f"{SBOM}: {fault}")
    try:
        statement = json.loads(folder.read(PROVENANCE))
        fault = validate_provenance(statement)
        found = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    except (ValueError, KeyError, TypeError) as error:
        fault, found = str(error), {}
    if fault:
        faults.append(f"{PROVENANCE}: {fault}")
    wanted = subjects(manifest, hashlib.sha256(sbom).hexdigest())
    faults += [f"{PROVENANCE} is of another {name}" for name, one in wanted.items() if found.get(name) != one]
    return Link("documents", not faults, _shown(faults) or f"{SBOM} and {PROVENANCE} are valid and of this release")


def _image(client: DockerClient, image: Image, manifest: Manifest, name: str) -> Link:
    faults = _layer_faults(tuple(image.attrs["RootFS"].get("Layers") or ()), manifest)
    if config_of(image.attrs["Config"]) != manifest.config:
        faults.append("its configuration differs")
    if not faults and not is_same(client, image, manifest.id, manifest.content):
        faults.append("same layers, another configuration")
    if faults:
        faults.insert(0, f"id expected {manifest.id}, found {image.id}")
    return Link(name, not faults, "; ".join(faults) or f"{manifest.image} {manifest.id}")


def _layer_faults(found: tuple[str, ...], manifest: Manifest) -> list[str]:
    """Return how layers differ from the release's; nothing when they do not."""
    if found == manifest.diff_ids:
        return []
    for number, (ours, theirs) in enumerate(zip(manifest.diff_ids, found, strict=False), start=1):
        if ours != theirs:
            return [f"layer {number} of {len(manifest.diff_ids)} differs"]
    return [f"it has {len(found)} layers, the release {len(manifest.diff_ids)}"]


def _archive_faults(facts: ArchiveFacts, manifest: Manifest) -> list[str]:
    """Return what keeps an archive's content from being the release's image."""
    faults = _layer_faults(facts.diff_ids, manifest)
    if facts.config != manifest.config:
        faults.append("its configuration differs")
    if facts.image_id != manifest.id and not faults:
        faults.append(f"id expected {manifest.id}, found {facts.image_id}")
    if facts.tags and facts.tags != (manifest.image,):
        faults.append(f"it would be loaded as {', '.join(facts.tags)}")
    return faults


def _listing(folder: ReleaseFolder) -> dict[str, TreeFile]:
    try:
        return parse_listing(folder.read(TREE).decode())
    except ValueError as error:
        raise ImageError(f"{folder.path / TREE} is no listing: {error}.", next_command="invoke image") from error


def _files(name: str, folder: ReleaseFolder, found: Mapping[str, TreeFile]) -> Link:
    """Every file of the patched tree is there, byte by byte; what stands beside them is the layers' business."""
    expected = _listing(folder)
    faults = [
        f"{path} {'was changed' if path in found else 'is missing'}"
        for path, one in sorted(expected.items())
        if found.get(path) != one
    ]
    return Link(name, not faults, _shown(faults) or f"{len(expected)} files are those of the patched tree")


def _container_files(container: Container) -> Iterator[tuple[str, TreeFile]]:
    try:
        chunks, _ = container.get_archive(f"/{TREE_FOLDER}")
    except NotFound:
        return
    stream = cast(IO[bytes], ChunkReader(chunks))
    with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as tar:
        yield from walk_files(tar, TREE_FOLDER.rpartition("/")[2])


def _changed_code(container: Container) -> list[str]:
    """Return what was changed since the container was made, or is hidden, where code is."""
    rows = container.diff() or []
    paths = {str(row["Path"]) for row in rows}
    parents = {str(parent) for path in paths for parent in Path(path).parents}
    changed = [
        f"{row['Path']} was {'added' if row['Kind'] == ADDED else 'changed'}"
        for row in rows
        # Python keeps what it compiled beside the source.
        if not (row["Kind"] == ADDED and "__pycache__" in str(row["Path"]).split("/"))
        if _is_code(str(row["Path"])) and row["Path"] not in parents
    ]
    targets = [str(mount["Destination"]) for mount in container.attrs.get("Mounts") or ()]
    return sorted(changed) + [f"{target} is hidden by a mount" for target in sorted(targets) if _is_code(target)]


def _is_code(path: str) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in CODE)


def _shown(faults: Iterable[str]) -> str:
    found = list(faults)
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more
