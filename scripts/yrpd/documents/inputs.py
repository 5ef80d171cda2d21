"""What an image was made from, as a document: its digest, and the labels that carry it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

INPUTS_LABEL = "yrpd.inputs"
DIGEST_LABEL = "yrpd.inputs-digest"
LAYER_LABEL = "yrpd.layer"


def digest_of(document: Mapping[str, object]) -> str:
    """Return the sha256 of a document's canonical JSON."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()
