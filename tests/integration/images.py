"""Images of a real engine, taken away again after a test."""

from __future__ import annotations

from docker import DockerClient


def remove_images(client: DockerClient, repository: str) -> None:
    """Remove the images of a repository, whatever was built on whatever.

    By their names, not by their ids: an engine refuses to remove an id that another image was built on, but takes a
    name away at once and the layers with the last image that needs them.
    """
    for image in client.images.list(repository):
        # An image that was pulled by its digest has no other name; with its last tag an image loses its digests too.
        for name in image.attrs["RepoTags"] or image.attrs["RepoDigests"]:
            if name.startswith((f"{repository}:", f"{repository}@")):
                client.images.remove(name, force=True)
