"""The npu image's base: its tag resolved to a digest once and recorded, then taken by that digest alone.

A tag can be moved; ``release.toml`` therefore holds ``base_digest`` beside ``base``. An image that came by ``docker
save`` and ``docker load`` has lost its registry digest (the engine does not keep it), so its id is recorded too, as
soon as an engine has the image by digest.
"""

from __future__ import annotations

from typing import Any

import tomlkit

from yrpd.building.image_engine import ImageEngine
from yrpd.docker.sdk import DockerClient, ImageNotFound, parse_repository_tag
from yrpd.errors import ImageError
from yrpd.project import Project, write_text
from yrpd.release import FlavourTable
from yrpd.reporting import Reporter

LOCK = "invoke image.lock --flavour npu"


def lock_command(pin: str = "") -> str:
    """Return the command that records a base's digest; an empty pin means the default one."""
    return LOCK + (f" --pin {pin}" if pin else "")


def pinned_base(table: FlavourTable, pin: str = "") -> str:
    """Return the base image's name with its digest in place of its tag.

    Args:
        table: What ``release.toml`` says of the npu image.
        pin: Whose image it is, for the next command; empty means the default pin.

    Raises:
        ImageError: The digest is not recorded yet.
    """
    if not table.base_digest:
        raise ImageError(
            f"release.toml has no digest for the npu image's base {table.base}, and a tag can be moved: "
            "`invoke image.lock` comes before `invoke image`, once.",
            next_command=f"{lock_command(pin)}   (where the engine reaches the image's registry)",
        )
    repository, _ = parse_repository_tag(table.base)
    return f"{repository}@{table.base_digest}"


def provide_base(engine: ImageEngine, table: FlavourTable, reporter: Reporter, pin: str = "") -> str:
    """Return the id of the base image on the engine, pulling it by digest when it is not there.

    Raises:
        ImageError: It is not pinned, or neither there nor to be pulled.
    """
    pinned = pinned_base(table, pin)
    for name in (pinned, table.base_id):
        found = _id_of(engine.client, name)
        if found:
            return found
    try:
        with reporter.step(f"pull {pinned}"):
            return engine.pull(pinned)
    except ImageError as error:
        raise ImageError(
            f"The npu image's base {pinned} is not on the engine and cannot be pulled from here: {error.message}",
            next_command=f"docker pull {pinned} where its registry is in reach, {lock_command(pin)} there, "
            "then docker save, and docker load here",
            detail=error.detail,
        ) from error


def lock_base(project: Project, pin: str, table: FlavourTable, engine: ImageEngine, *, dry_run: bool) -> dict[str, Any]:
    """Ask the registry for the base's digest and record it; without a change the file keeps its bytes.

    Args:
        project: The checkout.
        pin: The pin whose base it is.
        table: What ``release.toml`` says of the npu image now.
        engine: Asks the registry, and may have the image already.
        dry_run: Ask, and write nothing.

    Returns:
        ``{base, base_digest, base_id, previous, state: "locked" | "unchanged" | "planned"}``.

    Raises:
        ImageError: The registry gives no digest.
    """
    digest = engine.resolve(table.base)
    repository, _ = parse_repository_tag(table.base)
    known = table.base_id if digest == table.base_digest else ""
    identity = _id_of(engine.client, f"{repository}@{digest}") or known
    changed = (digest, identity) != (table.base_digest, table.base_id)
    if changed and not dry_run:
        text = project.release_file.read_text(encoding="utf-8")
        write_text(project.release_file, with_digest(text, pin, digest, identity))
    state = "unchanged" if not changed else "planned" if dry_run else "locked"
    return {
        "base": table.base,
        "base_digest": digest,
        "base_id": identity,
        "previous": table.base_digest,
        "state": state,
    }


def with_digest(text: str, pin: str, digest: str, identity: str) -> str:
    """Return ``release.toml`` with the digest and id of a pin's npu base set; comments and order stay."""
    document: Any = tomlkit.parse(text)
    own = {**document.get("known", {}), **document["pins"]}.get(pin, {}).get("npu")
    table = document["flavours"]["npu"] if own is None else own
    table["base_digest"], table["base_id"] = digest, identity
    return tomlkit.dumps(document)


def _id_of(client: DockerClient, name: str) -> str:
    if not name:
        return ""
    try:
        return str(client.images.get(name).id)
    except ImageNotFound:
        return ""
