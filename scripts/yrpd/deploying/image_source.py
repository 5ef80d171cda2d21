"""Where hosts that lack the image get it from. The command layer says which source there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from yrpd.deploying.hosts import transfer
from yrpd.deploying.inventory import Host
from yrpd.docker.sdk import DockerClient, Image
from yrpd.documents.image_record import ImageRecord
from yrpd.reporting import Reporter


class ImageSource(Protocol):
    """Gives one image to hosts."""

    @property
    def remedy(self) -> str:
        """What to do when it cannot."""

    def lacks(self) -> str:
        """Return why it cannot give the image, a half sentence; empty when it can."""

    def architecture(self) -> str:
        """Return the image's architecture, in Docker's words."""

    def size_bytes(self) -> int:
        """Return the image's unpacked size."""

    def bring(self, hosts: Sequence[Host], reporter: Reporter) -> None:
        """Bring the image to hosts, with its name, and prove that it is the same there.

        Raises:
            ImageError: It did not arrive.
        """


@dataclass(frozen=True)
class BuildEngine:
    """The engine that images are built on, or another one that may have the image; ``None`` when none answers."""

    client: DockerClient | None
    image: ImageRecord

    @property
    def remedy(self) -> str:
        """What to do when it cannot."""
        return f"invoke image --flavour {self.image.flavour}"

    def lacks(self) -> str:
        """Return why it cannot give the image."""
        if self.client is None:
            return "the build engine does not answer"
        return "" if transfer.image_on(self.client, self.image) else "nor does the build engine"

    def architecture(self) -> str:
        """Return the image's architecture."""
        return str(self._present().attrs.get("Architecture", ""))

    def size_bytes(self) -> int:
        """Return the image's unpacked size."""
        return transfer.image_bytes(self._present())

    def bring(self, hosts: Sequence[Host], reporter: Reporter) -> None:
        """Copy the image from this engine to the hosts'."""
        assert self.client is not None, "asked only after it lacked nothing"  # noqa: S101
        transfer.move(self.client, hosts, self.image, reporter)

    def _present(self) -> Image:
        found = transfer.image_on(self.client, self.image) if self.client else None
        assert found is not None, "asked only after it lacked nothing"  # noqa: S101
        return found


#: Gives the source of an image, for as long as the block runs.
SourceOf = Callable[[ImageRecord], AbstractContextManager[ImageSource]]
