"""Images whose layers are archives of our own, as one stream that ``docker load`` reads.

The engine unpacks each layer once, and every byte is known here: the same parts make the same layers and the same image
id on every machine, on every day. The form is the image specification's configuration with docker's ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from yrpd.building.context import chunks_of
from yrpd.errors import BuildError

EPOCH = "1970-01-01T00:00:00Z"


#: The bytes of a tar archive, known before it is made, and what yields it.
Archive = tuple[int, Iterator[bytes]]


@dataclass(frozen=True)
class Part:
    """One layer.

    Attributes:
        made_by: What it is, for the image's history.
        archive: Gives its archive, and what that reads from to the stack, which closes it once the layer was sent.
    """

    made_by: str
    archive: Callable[[ExitStack], Archive]


def file_part(path: Path, made_by: str) -> Part:
    """Return a layer that is an archive on disk."""
    return Part(made_by, lambda stack: (path.stat().st_size, chunks_of(stack.enter_context(path.open("rb")))))


@dataclass(frozen=True)
class Settings:
    """What a container of the image starts with.

    Attributes:
        labels: The image's labels.
        environment: Environment variables.
    """

    labels: Mapping[str, str]
    environment: Mapping[str, str]


def image_archive(name: str, parts: Sequence[Part], below: Sequence[str], settings: Settings) -> Iterator[bytes]:
    """Yield an image as docker saves it.

    Args:
        name: Name with tag.
        parts: All layers, the lowest first.
        below: DiffIDs of the lowest ones that the engine has; these are named and not sent.
        settings: The image's configuration.

    Raises:
        BuildError: A part is longer or shorter than it said.
    """
    diff_ids, members = list(below), [f"{number}/layer.tar" for number in range(len(parts))]
    for member, part in zip(members[len(below) :], parts[len(below) :], strict=True):
        with ExitStack() as stack:
            size, chunks = part.archive(stack)
            sent, hashing = 0, hashlib.sha256()
            yield _header(member, size)
            for chunk in chunks:
                sent += len(chunk)
                hashing.update(chunk)
                yield chunk
        if sent != size:
            message = f"{part.made_by}: {sent} bytes instead of {size}; a file changed while it was read."
            raise BuildError(message, next_command="invoke image --flavour cpu")
        yield bytes(-size % tarfile.BLOCKSIZE)
        diff_ids.append(f"sha256:{hashing.hexdigest()}")
    configuration = _json(
        {
            "architecture": "amd64",
            "config": {
                "Cmd": ["/bin/sh"],
                "Env": [f"{key}={value}" for key, value in settings.environment.items()],
                "Labels": dict(settings.labels),
            },
            "created": EPOCH,
            "history": [{"created": EPOCH, "created_by": part.made_by} for part in parts],
            "os": "linux",
            "rootfs": {"diff_ids": diff_ids, "type": "layers"},
        }
    )
    file = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = _json([{"Config": file, "Layers": members, "RepoTags": [name]}])
    for member, data in ((file, configuration), ("manifest.json", manifest)):
        yield _header(member, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)
