"""``invoke image.save``, ``.load`` and ``.verify``: each returns its JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from yrpd.docker.connection import connect
from yrpd.docker.sdk import DockerClient
from yrpd.documents.image_record import read_record
from yrpd.documents.manifest import Manifest, read_manifest
from yrpd.documents.release_folder import MANIFEST, ReleaseFolder
from yrpd.errors import ImageError, VerificationError
from yrpd.project import Project
from yrpd.release import Flavour
from yrpd.releasing import image_load, saving
from yrpd.releasing.verifying import Link, verify_container, verify_folder, verify_image, verify_tarball
from yrpd.reporting import Reporter

#: Gives a client of an engine.
Connect = Callable[[], DockerClient]


def find_release(project: Project, flavour: Flavour, release: str = "", pin: str = "") -> ReleaseFolder:
    """Return a release folder: by path, by name in ``dist/``, else that of the last image of a flavour and pin.

    Raises:
        ImageError: There is none.
    """
    if release:
        for path in (project.dist / release, Path(release)):
            if (path / MANIFEST).exists():
                return ReleaseFolder(path.resolve())
        raise ImageError(f"There is no release {release!r}.", next_command=f"ls {project.dist}")
    record = read_record(project, flavour, pin)
    if record is None:
        raise ImageError(f"There is no {flavour} image yet.", next_command=f"invoke image --flavour {flavour}")
    folder = ReleaseFolder(project.dist / str(record.get("release", "")))
    if "release" not in record or not (folder.path / MANIFEST).exists():
        message = f"The last {flavour} image has no release folder."
        raise ImageError(message, next_command=f"invoke image --flavour {flavour}")
    return folder


def save(
    *, project: Project, reporter: Reporter, flavour: Flavour, release: str = "", pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Write the image's tarball into its release folder.

    Raises:
        YrpdError: 6 the engine does not have the image, broke off, or the disk is full; 8 no engine answers.
    """
    folder = find_release(project, flavour, release, pin)
    manifest = read_manifest(folder)
    if dry_run:
        reporter.say(f"save {manifest.image} to {folder.tarball}")
        return {"state": "planned", "release": folder.name, "tarball": str(folder.tarball)}
    with closing(connect()) as client:
        manifest = saving.save(client, folder, reporter)
    return {"state": "saved", **_summary(manifest)}


def load(
    *,
    project: Project,
    reporter: Reporter,
    flavour: Flavour,
    release: str = "",
    pin: str = "",
    engine_of: Connect = connect,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Bring the image to an engine.

    Args:
        project: The checkout.
        reporter: Says what is done.
        flavour: Whose last release, when none is named.
        release: Name or folder of the release.
        pin: Of which pin, when no release is named; empty means the default one.
        engine_of: Connects to the engine; without it it is this machine's (``DOCKER_HOST``).
        dry_run: Say what would be done.

    Raises:
        YrpdError: 2 no such host; 6 the tarball is not the release's, or the engine failed; 8 it does not answer.
    """
    folder = find_release(project, flavour, release, pin)
    manifest = read_manifest(folder)
    if dry_run:
        reporter.say(f"load {manifest.image}")
        return {"state": "planned", "release": folder.name}
    with closing(engine_of()) as client:
        done = image_load.load(client, folder, manifest, reporter)
    if done.moved_bytes:
        reporter.say(f"    {done.moved_bytes / 1e6:.1f} MB sent, {done.kept_layers} layers were there already")
    return {**asdict(done), **_summary(manifest)}


def verify(
    *,
    project: Project,
    reporter: Reporter,
    flavour: Flavour,
    release: str = "",
    pin: str = "",
    tarball: str = "",
    image: str = "",
    container: str = "",
    engine_of: Connect = connect,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Prove the chain from the series to what is named: a tarball, an image, a container.

    With none of them named it is the release's own tarball, when it was saved, and its image on this engine.

    Raises:
        YrpdError: 6 there is no release, 8 no engine answers, 9 a link does not hold (it is named first).
    """
    folder = find_release(project, flavour, release, pin)
    manifest = read_manifest(folder)
    if not (tarball or image or container):
        tarball = str(folder.tarball) if manifest.tarball else ""
        image = manifest.image
    if dry_run:
        planned = [one for one in (folder.name, tarball, image, container) if one]
        reporter.say("verify " + ", ".join(planned))
        return {"state": "planned", "release": folder.name, "targets": planned}
    links = verify_folder(folder, manifest)
    if tarball:
        links += verify_tarball(manifest, Path(tarball))
    if image or container:
        links += _verify_on_engine(engine_of, folder, manifest, image, container)
    return _verdict(folder.name, links, reporter)


def _verify_on_engine(
    engine_of: Connect, folder: ReleaseFolder, manifest: Manifest, image: str, container: str
) -> list[Link]:
    """Prove an image, a container, or both; an empty name is neither."""
    with closing(engine_of()) as client:
        links = verify_image(client, folder, manifest, image) if image else []
        return links + (verify_container(client, folder, manifest, container) if container else [])


def _verdict(release: str, links: list[Link], reporter: Reporter) -> dict[str, Any]:
    """Show all links, and return their document.

    Raises:
        VerificationError: One does not hold; the first that does not is named.
    """
    table = Table("link", "holds", "found", title=release)
    for one in links:
        table.add_row(one.name, "yes" if one.passed else "NO", one.detail)
    reporter.render(table)
    broken = next((one for one in links if not one.passed), None)
    document = {
        "release": release,
        "passed": broken is None,
        "broken": broken.name if broken else "",
        "checks": [asdict(one) for one in links],
    }
    if broken:
        message = f"The chain of {release} is broken at '{broken.name}': {broken.detail}."
        raise VerificationError(message, next_command="invoke image.verify --json", document=document)
    return document


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "release": manifest.release,
        "image": manifest.image,
        "id": manifest.id,
        "tarball": json.loads(manifest.tarball.model_dump_json(exclude={"layers"})) if manifest.tarball else None,
    }
