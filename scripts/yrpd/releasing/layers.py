"""The layers of an image: how large, what is in each, and what changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yrpd.docker.failures import engine_failures
from yrpd.docker.sdk import DockerClient, ImageNotFound
from yrpd.documents.manifest import ManifestLayer
from yrpd.errors import ImageError

# A text of the instruction that made a layer; what the layer holds; what changes it. The first that fits counts.
REASONS = (
    ("Debian ", "the Debian root", "Debian's packages or their list"),
    ("/opt/vllm, /opt/router:", "vLLM, the DataSystem, the router", "a lock, a repair, the base, the compiling Python"),
    ("/opt/openyuanrong: ", "openYuanrong's yr and etcd", "its lock, its repair, a given wheel"),
    (" in / ", "the patched tree, what containers run of this project", "the series, the serving code"),
    ("COPY root /", "the patched tree, what containers run of this project", "the series, the serving code"),
    (" in /opt/openyuanrong", "openYuanrong's yr and etcd", "its lock, its repair, a given wheel"),
    (" in /opt/router", "the router", "its lock"),
    (" in /opt/yuanrong", "the DataSystem", "its lock"),
    (" in /opt/yrpd/series", "the patch series", "the series"),
    (" in /opt/yrpd", "what containers run of this project", "the serving code"),
    ("apply_series.sh", "the patched tree, by git am", "the series: the connector and its hooks"),
    (" in /vllm-workspace/vllm-ascend", "the patched tree", "the series: the connector and its hooks"),
    ("setup.py develop", "the tree's installation", "the tree's version and entry points"),
    ("rebuild.sh", "the tree's installation", "the tree's version, its compiled parts"),
    ("import_connector.py", "nothing but traces of the import test", "any layer below"),
)
METADATA = "#(nop)"


def layers_of(client: DockerClient, image: str) -> tuple[ManifestLayer, ...]:
    """Return an image's layers, the lowest first.

    Raises:
        ImageError: The engine does not have it, or failed.
    """
    with engine_failures(f"asking for {image}"):
        try:
            found = client.images.get(image)
        except ImageNotFound:
            raise ImageError(f"The engine has no image {image!r}.", next_command="docker images") from None
        history_of: Any = client.api.history  # the stubs have no types for it
        history = history_of(found.id)
    return explained(found.attrs["RootFS"].get("Layers") or (), history)


def explained(diff_ids: Sequence[str], history: Sequence[Mapping[str, Any]]) -> tuple[ManifestLayer, ...]:
    """Return layers with their reasons.

    Args:
        diff_ids: The image's DiffIDs, the lowest first.
        history: The engine's history of the image, the newest first; most of its rows are no layers.
    """
    rows = [row for row in reversed(history) if row["Size"] or METADATA not in row["CreatedBy"]]
    if len(rows) != len(diff_ids):
        # An engine may keep an empty layer, or leave it out.
        rows = [row for row in rows if row["Size"]]
    told = len(rows) == len(diff_ids)
    return tuple(
        _layer(one, int(rows[number]["Size"]), str(rows[number]["CreatedBy"])) if told else ManifestLayer(diff_id=one)
        for number, one in enumerate(diff_ids)
    )


def _layer(diff_id: str, size: int, made_by: str) -> ManifestLayer:
    for text, holds, changes in REASONS:
        if text in made_by:
            return ManifestLayer(diff_id=diff_id, bytes=size, holds=holds, changes_with=changes)
    return ManifestLayer(diff_id=diff_id, bytes=size, holds="part of the base image", changes_with="the base")
