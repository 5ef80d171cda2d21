"""Where hosts that lack the image get it from: the engine that built it, or the tarball of a release folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from docker import DockerClient

from yrpd.deploying.hosts import transfer
from yrpd.deploying.hosts.engines import connect
from yrpd.deploying.inventory import Host
from yrpd.docker import connection as engine
from yrpd.documents.image_record import ImageRecord
from yrpd.documents.manifest import Manifest, Tarball, read_manifest
from yrpd.documents.release_folder import TARBALL, ReleaseFolder
from yrpd.errors import EnvironmentFailure
from yrpd.project import Project
from yrpd.releasing import loading
from yrpd.reporting import Advance, Reporter


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
    """The engine that images are built on; ``None`` when none answers."""

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
        return "" if transfer.has_image(self.client, self.image) else "nor does the build engine"

    def architecture(self) -> str:
        """Return the image's architecture."""
        return str(self._present().images.get(self.image.id).attrs.get("Architecture", ""))

    def size_bytes(self) -> int:
        """Return the image's unpacked size."""
        return transfer.image_bytes(self._present(), self.image)

    def bring(self, hosts: Sequence[Host], reporter: Reporter) -> None:
        """Copy the image from this engine to the hosts'."""
        transfer.move(self._present(), hosts, self.image, reporter)

    def _present(self) -> DockerClient:
        assert self.client is not None, "asked only after it lacked nothing"  # noqa: S101
        return self.client


@dataclass(frozen=True)
class ReleaseTarball:
    """The tarball of a release folder; layers that a host has are not sent to it."""

    folder: ReleaseFolder
    manifest: Manifest

    @property
    def remedy(self) -> str:
        """What to do when it cannot."""
        return f"invoke image.save --release {self.manifest.release}  # where it was built; then copy the folder again"

    def lacks(self) -> str:
        """Return why it cannot give the image."""
        there = self.manifest.tarball is not None and self.folder.tarball.is_file()
        return "" if there else f"the release folder has no {TARBALL}"

    def architecture(self) -> str:
        """Return the image's architecture."""
        return self.manifest.platform.split("/")[1]

    def size_bytes(self) -> int:
        """Return the image's unpacked size."""
        return self.manifest.size_bytes

    def bring(self, hosts: Sequence[Host], reporter: Reporter) -> None:
        """Load the tarball, proved once, into all hosts' engines at the same time."""
        title = f"loading {self.manifest.image} on {', '.join(host.name for host in hosts)}"
        with loading.proved_tarball(self.folder, self.manifest) as (saved, _):
            total = saved.bytes_unpacked * len(hosts)
            with reporter.step(title), reporter.progress(title, total, in_bytes=True) as advance:
                with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
                    loads = [pool.submit(self._load, host, saved, advance, reporter) for host in hosts]
                for load in loads:
                    load.result()

    def _load(self, host: Host, saved: Tarball, advance: Advance, reporter: Reporter) -> None:
        with (
            closing(connect(host, timeout_s=transfer.LOAD_TIMEOUT_S)) as client,
            self.folder.tarball.open("rb") as stream,
        ):
            loading.send(client, self.manifest, saved, stream, advance, reporter.detail)


@contextmanager
def image_source(project: Project, image: ImageRecord) -> Iterator[ImageSource]:
    """Give the source that this machine has: the release folder without a checkout, else the engine that builds.

    Args:
        project: The checkout, or the release folder.
        image: The image that is wanted.
    """
    if project.released is not None:
        folder = ReleaseFolder(Path(project.released))
        yield ReleaseTarball(folder, read_manifest(folder))
        return
    try:
        client = engine.connect()
    except EnvironmentFailure:
        yield BuildEngine(None, image)
        return
    with closing(client):
        yield BuildEngine(client, image)
