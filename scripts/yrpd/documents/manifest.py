"""``manifest.json``: what a release is, by content. Deploy reads it, verify holds everything else against it."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from yrpd.docker.images import content_of
from yrpd.documents.release_folder import MANIFEST, ReleaseFolder
from yrpd.errors import ImageError
from yrpd.release import Flavour, GitId, Sha256


class _Table(BaseModel):
    # What older releases say besides stays in them.
    model_config = ConfigDict(frozen=True, extra="allow")


class ManifestPatch(_Table):
    """One patch: its file, the file's hash and the tree that it leads to."""

    file: str
    sha256: Sha256
    tree: GitId


class Upstream(_Table):
    """The upstream state that the series is for."""

    repository: str
    tag: str
    commit: GitId | None
    tree: GitId
    version: str
    vllm: str
    sdist_file: str
    sdist_sha256: Sha256


class Config(_Table):
    """What a container of the image starts with."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    labels: dict[str, str] = {}


class TarballLayer(_Table):
    """One layer of the tarball: its DiffID, the archive's member that holds it, and the member's size."""

    diff_id: str
    member: str
    bytes: int


class Tarball(_Table):
    """The saved image.

    Attributes:
        file: Its name in the release folder.
        sha256: Of the compressed file.
        bytes: Of the compressed file.
        bytes_unpacked: Of the archive in it.
        layers: The layers in it, lowest first.
    """

    file: str
    sha256: Sha256
    bytes: int
    bytes_unpacked: int
    layers: tuple[TarballLayer, ...]


class Standalone(_Table):
    """The deployment commands for hosts without a checkout.

    Attributes:
        file: Its name in the release folder.
        sha256: Of the file.
        bytes: Of the file.
        targets: The Pythons and machines that it runs on.
    """

    file: str
    sha256: Sha256
    bytes: int
    targets: tuple[str, ...]


class Manifest(_Table):
    """All of ``manifest.json``.

    Attributes:
        format: Version of this form.
        release: The release's name, also the folder's.
        made_from: sha256 over all that decided the release's bytes when it was made: the image, the pin, this project's
            code and locks. The name ends with its first digits.
        image: ``repository:tag``.
        id: The image's id on the engine that built it: the sha256 of its configuration.
        diff_ids: sha256 of every layer's archive, lowest first.
        flavour: ``npu`` or ``cpu``.
        platform: Such as ``linux/amd64``.
        size_bytes: Unpacked size.
        config: What containers start with.
        base: The image below, by the name and id that it was built on.
        pin: The pin's name.
        upstream: The pin.
        version: Version of the patched tree.
        commit: Its commit id.
        tree: Its tree id.
        series_digest: Digest of ``patches/lock.toml``.
        patches: The series, in order.
        inputs_digest: sha256 over the inputs.
        inputs: Everything that went into the image, name to value or digest.
        versions: Version of every Python distribution in the image that matters to a reader, by name.
        tarball: Set by ``invoke image.save``.
        deploy: The deployment commands that are in the folder.
    """

    format: Literal[1] = 1
    release: str
    made_from: str = ""
    image: str
    id: str
    diff_ids: tuple[str, ...]
    flavour: Flavour
    platform: str
    size_bytes: int
    config: Config
    base: str
    pin: str
    upstream: Upstream
    version: str
    commit: GitId
    tree: GitId
    series_digest: Sha256
    patches: tuple[ManifestPatch, ...]
    inputs_digest: Sha256
    inputs: dict[str, str]
    versions: dict[str, str] = {}
    tarball: Tarball | None = None
    deploy: Standalone | None = None

    @property
    def content(self) -> str:
        """The image's identity on every engine."""
        config = self.config
        named = {"Env": config.env, "Entrypoint": config.entrypoint, "Cmd": config.cmd, "Labels": config.labels}
        return content_of(self.diff_ids, {**named, "WorkingDir": config.workdir, "User": config.user})

    def render(self) -> bytes:
        """Return the file's bytes; equal manifests give equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False)
        return f"{text}\n".encode()


def read_manifest(folder: ReleaseFolder) -> Manifest:
    """Read a release folder's manifest.

    Raises:
        ImageError: It is missing, or is not one (the field is named).
    """
    data = folder.read(MANIFEST)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{folder.path / MANIFEST}: {where}: {first['msg']}."
        raise ImageError(message, next_command=f"invoke image.verify --release {folder.path}") from error


def config_of(attributes: dict[str, Any]) -> Config:
    """Return what containers start with, from an engine's description of an image or from the image's configuration.

    Args:
        attributes: ``Config`` of an inspection, ``config`` of an image configuration; both have the same keys.
    """
    return Config(
        env=tuple(attributes.get("Env") or ()),
        entrypoint=tuple(attributes.get("Entrypoint") or ()),
        cmd=tuple(attributes.get("Cmd") or ()),
        workdir=str(attributes.get("WorkingDir") or ""),
        user=str(attributes.get("User") or ""),
        labels=dict(attributes.get("Labels") or {}),
    )
