"""Everything that the files of a release are rendered from, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from yrpd.documents.manifest import Manifest
from yrpd.git.mail import Message
from yrpd.releasing.inventory import Inventory


@dataclass(frozen=True)
class PatchText:
    """A patch of the series.

    Attributes:
        file: Its file name.
        data: Its bytes.
        message: Its commit message.
    """

    file: str
    data: bytes
    message: Message


@dataclass(frozen=True)
class ReleaseFacts:
    """What a release is made of.

    Attributes:
        manifest: The image and what it was made from.
        inventory: What is installed in it.
        patches: The series, in order.
        date: Date of the last patch: releases carry no clock of whoever made them.
        deploy: Name, version and licence of every package that ``deploy.pyz`` carries.
    """

    manifest: Manifest
    inventory: Inventory
    patches: tuple[PatchText, ...]
    date: datetime
    deploy: tuple[tuple[str, str, str], ...]
