"""``dist/image-*.json``, one a flavour and pin: what deploy reads, and what the next ``invoke image`` compares with.

On a host without a checkout the release folder's manifest says the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yrpd.documents.manifest import read_manifest
from yrpd.documents.release_folder import ReleaseFolder
from yrpd.errors import ImageError
from yrpd.project import Project
from yrpd.release import Flavour, load_release


@dataclass(frozen=True)
class ImageRecord:
    """One image.

    Attributes:
        reference: ``repository:tag``.
        id: The image's id on the engine that built it, ``sha256:...``.
        flavour: ``npu`` or ``cpu``.
        pin: The pin it was made from.
        tree: Id of the patched tree in it.
        stores: Identity of all that etcd and workers run of it; empty in images of earlier versions.
        content: Its identity on every engine; empty in older records.
    """

    reference: str
    id: str
    flavour: Flavour
    pin: str
    tree: str
    stores: str = ""
    content: str = ""


#: The label of an image that says :attr:`ImageRecord.stores`.
STORES = "yrpd.stores"


def record_file(project: Project, flavour: Flavour, pin: str) -> Path:
    """Return the record's path."""
    return project.dist / load_release(project.release_file).image_record(flavour, pin)


def read_record(project: Project, flavour: Flavour, pin: str = "") -> dict[str, Any] | None:
    """Return the record of a pin's last image, ``None`` when there is none that can be read."""
    try:
        loaded = json.loads(record_file(project, flavour, pin).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None


def load_image_record(project: Project, flavour: Flavour, pin: str = "") -> ImageRecord:
    """Read the record of an image in ``dist/``; without a checkout the release folder's manifest is one.

    Args:
        project: The checkout, or the release folder.
        flavour: ``npu`` or ``cpu``.
        pin: The pin that the image was made from; empty means the default one.

    Raises:
        ConfigurationError: There is no such pin.
        ImageError: No image was made, or the record is not one.
    """
    if project.released is not None:
        found = read_manifest(ReleaseFolder(project.released))
        known = (found.image, found.id, found.flavour, found.pin, found.tree)
        return ImageRecord(*known, found.config.labels.get(STORES, ""), found.content)
    path = record_file(project, flavour, pin)
    again = f"invoke image --flavour {flavour}" + (f" --pin {pin}" if pin else "")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return ImageRecord(
            reference=document["image"],
            id=document["id"],
            flavour=document["flavour"],
            pin=document["pin"],
            tree=document["tree"],
            stores=document.get("labels", {}).get(STORES, ""),
            content=document.get("content", ""),
        )
    except FileNotFoundError as error:
        message = f"There is no {flavour} image yet: dist/{path.name} does not exist."
        raise ImageError(message, next_command=again) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(f"dist/{path.name} is not an image record ({error}).", next_command=again) from error
