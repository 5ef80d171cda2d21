"""What makes, finds and fetches images: one small interface, two ways to build behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from yrpd.building.assembly import Part
from yrpd.building.buildx_engine import BuildxEngine, find_buildx
from yrpd.building.context import Context
from yrpd.building.layers import Layer
from yrpd.building.sdk_engine import SdkEngine
from yrpd.docker.connection import reach
from yrpd.docker.sdk import DockerClient
from yrpd.errors import ConfigurationError
from yrpd.reporting import Reporter

SDK = "sdk"
BUILDX = "buildx"


class Engine(Protocol):
    """A Docker engine, as far as images are concerned. Every method raises ``ImageError`` when the engine fails."""

    client: DockerClient
    log: Path

    def find(self, layer: Layer) -> str:
        """Return the id of the image with the layer's tag and inputs digest, empty when there is none."""

    def assemble(
        self, layer: Layer, parts: Sequence[Part], environment: Mapping[str, str], below: Layer | None = None
    ) -> str:
        """Make an image of layers that are archives, and return its id."""

    def build(self, layer: Layer, context: Context, dockerfile: str, arguments: dict[str, str]) -> str:
        """Build a layer without a network and return the image's id; a failed build leaves no image."""

    def pull(self, reference: str) -> str:
        """Fetch an image from its registry and return its id."""

    def resolve(self, reference: str) -> str:
        """Return the digest that the registry has for a name now; nothing is fetched."""


def open_engine(name: str, reporter: Reporter, log: Path) -> Engine:
    """Return the engine that answers, with the asked-for way to build.

    Args:
        name: ``sdk`` (the classic builder) or ``buildx``; ``sdk`` when empty.
        reporter: Says what is done.
        log: Gets every line of the engine's.

    Raises:
        ConfigurationError: There is no such way.
        EnvironmentFailure: No engine answers, or buildx is not installed.
    """
    wanted = name or SDK
    if wanted not in (SDK, BUILDX):
        raise ConfigurationError(
            f"There is no engine {wanted!r}; there are: {SDK}, {BUILDX}.", next_command=f"invoke image --engine {SDK}"
        )
    address, client = reach()
    if wanted == BUILDX:
        return BuildxEngine(client, reporter, log, find_buildx(reporter), address)
    return SdkEngine(client, reporter, log)
