"""Everything that the files of a release are rendered from, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from yrpd.documents.manifest import Manifest
from yrpd.releasing.packages import Inventory


@dataclass(frozen=True)
class ReleaseFacts:
    """What a release is made of.

    Attributes:
        manifest: The image and what it was made from.
        inventory: What is installed in it.
        patches: The series' files, by name and in order.
        date: Date of the last patch: releases carry no clock of whoever made them.
    """

    manifest: Manifest
    inventory: Inventory
    patches: Mapping[str, bytes]
    date: datetime
