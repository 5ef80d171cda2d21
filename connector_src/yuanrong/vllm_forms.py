# SPDX-License-Identifier: Apache-2.0
"""The forms in which vLLM's releases hand over the same things; the rest of the package knows one form only.

Each function looks at the object and not at a version number, so a form that two releases share is written once. vLLM
is not imported. Known forms: 0.10.0 (vLLM Ascend v0.10.0rc1) and 0.11.0 (v0.11.0).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# vLLM's own content hashes. What else may stand in their place since 0.11.0 names no content: a name that the client
# gave, or one made of the request's id when both of vLLM's caches are off.
_CONTENT_HASH = re.compile(r"[0-9a-f]{64}")


def media(request: Any) -> tuple[list[Any], list[Any], int]:
    """Return content hashes, placeholder ranges and number of a request's multimodal items.

    A hash is None where vLLM gives a name instead of one, which says nothing about the content.

    Args:
        request: vLLM's ``Request``; 0.10.0 has three lists, 0.11.0 one list of features.
    """
    features = getattr(request, "mm_features", None)
    if features is None:
        return list(request.mm_hashes), list(request.mm_positions), int(request.num_encoder_inputs)
    hashes = [f.identifier if _CONTENT_HASH.fullmatch(str(f.identifier)) else None for f in features]
    return hashes, [f.mm_position for f in features], len(features)


def prompt_tokens(request: Any) -> Sequence[int] | None:
    """Return the prompt's token ids, None for a prompt that was given as embeddings (since 0.11.0)."""
    if getattr(request, "prompt_embeds", None) is not None:
        return None
    tokens: Sequence[int] | None = request.prompt_token_ids
    return tokens


def new_blocks(block_ids: Any) -> list[int]:
    """Return the ids of a running request's new blocks of the only cache group.

    Args:
        block_ids: A tuple of one list; None in 0.11.0 when there are none.
    """
    return [] if block_ids is None else list(block_ids[0])
