"""What the Docker SDK raises, as the image error that people read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests

from yrpd.docker.connection import TIMEOUT_VARIABLE
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
        if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
            raise ImageError(
                f"{what} failed: the engine said nothing for too long ({TIMEOUT_VARIABLE} sets another limit).",
                next_command="docker info",
            ) from error
        raise ImageError(
            f"{what} failed: the engine's answer broke off: {error}.", next_command="docker info"
        ) from error
