"""Writes ``dist/image-*.json``, one a flavour and pin; ``documents.image_record`` reads it."""

from __future__ import annotations

from typing import Any

from yrpd.building.layers import Layer
from yrpd.documents.image_record import read_record, record_file
from yrpd.documents.patched import Patched
from yrpd.project import Project, write_json
from yrpd.release import Flavour


def previous_inputs(project: Project, flavour: Flavour, pin: str) -> dict[str, Any] | None:
    """Return the inputs of the last image of a pin."""
    record = read_record(project, flavour, pin)
    if record is None or record.get("pin") != pin:
        return None
    inputs = record.get("inputs")
    return inputs if isinstance(inputs, dict) else None


def write_record(
    project: Project,
    flavour: Flavour,
    patched: Patched,
    layer: Layer,
    *,
    image_id: str,
    content: str,
    base: str,
    state: str,
    reasons: list[str],
) -> dict[str, Any]:
    """Write and return the record of an image that is on the engine now."""
    document = {
        "image": layer.image,
        "id": image_id,
        "content": content,
        "inputs_digest": layer.digest,
        "inputs": dict(layer.inputs),
        "flavour": flavour,
        "pin": patched.name,
        "version": patched.version,
        "tree": patched.tree,
        "commit": patched.commit,
        "series_digest": patched.series_digest,
        "labels": layer.all_labels,
        "base": base,
        "state": state,
        "reasons": reasons,
    }
    write_json(record_file(project, flavour, patched.name), document)
    return document
