"""What the Docker SDK raises, as the image error that people read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests

from yrpd.docker.connection import broken
from yrpd.docker.sdk import DockerException, ImageNotFound
from yrpd.errors import ImageError


@contextmanager
def engine_failures(what: str) -> Iterator[None]:
    """Turn what the SDK raises into the image error that people read.

    Raises:
        ImageError: The engine does not have the image, refused, broke off or said nothing for too long.
    """
    try:
        yield
    except ImageNotFound as error:
        raise ImageError(f"{what} failed: the engine does not have it.", next_command="invoke image") from error
    except (DockerException, requests.RequestException) as error:
        raise ImageError(f"{what} failed: {broken(error)}.", next_command="docker info") from error
