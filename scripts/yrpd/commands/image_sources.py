"""Which source this machine has for hosts that lack the image: its engine, or a release folder's tarball."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from yrpd.deploying.hosts import transfer
from yrpd.deploying.hosts.engines import connect
from yrpd.deploying.image_source import BuildEngine, ImageSource
from yrpd.deploying.inventory import Host
from yrpd.docker import connection as engine
from yrpd.documents.image_record import ImageRecord
from yrpd.documents.manifest import Manifest, Tarball, read_manifest
from yrpd.documents.release_folder import TARBALL, ReleaseFolder
from yrpd.errors import EnvironmentFailure
from yrpd.project import Project
from yrpd.releasing import image_load
from yrpd.reporting import Advance, Reporter


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
        with image_load.proved_tarball(self.folder, self.manifest) as (saved, _):
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
            image_load.send(client, self.manifest, saved, stream, advance, reporter.detail)


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
