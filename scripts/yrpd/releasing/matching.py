"""Is this the release's image? What differs, in an engine's description or an archive's content."""

from __future__ import annotations

from yrpd.documents.manifest import Manifest
from yrpd.releasing.archive import ArchiveFacts


def layer_faults(found: tuple[str, ...], manifest: Manifest) -> list[str]:
    """Return how layers differ from the release's; nothing when they do not."""
    if found == manifest.diff_ids:
        return []
    for number, (ours, theirs) in enumerate(zip(manifest.diff_ids, found, strict=False), start=1):
        if ours != theirs:
            return [f"layer {number} of {len(manifest.diff_ids)} differs"]
    return [f"it has {len(found)} layers, the release {len(manifest.diff_ids)}"]


def archive_faults(facts: ArchiveFacts, manifest: Manifest) -> list[str]:
    """Return what keeps an archive's content from being the release's image."""
    faults = layer_faults(facts.diff_ids, manifest)
    if facts.config != manifest.config:
        faults.append("its configuration differs")
    if facts.image_id != manifest.id and not faults:
        faults.append(f"id expected {manifest.id}, found {facts.image_id}")
    if facts.tags and facts.tags != (manifest.image,):
        faults.append(f"it would be loaded as {', '.join(facts.tags)}")
    return faults
