"""One form for what vLLM's releases hand over in several."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from yuanrong.keys import media_items
from yuanrong.vllm_forms import media, new_blocks, prompt_tokens

HASH = "0123456789abcdef" * 4


def before(hashes: list[Any], count: int | None = None) -> SimpleNamespace:
    """A request's media as vLLM 0.10.0 has them."""
    places = [SimpleNamespace(offset=3 * n, length=2) for n in range(len(hashes))]
    return SimpleNamespace(mm_hashes=hashes, mm_positions=places, num_encoder_inputs=count or len(hashes))


def since(hashes: list[Any]) -> SimpleNamespace:
    """The same as vLLM 0.11.0 has it."""
    old = before(hashes)
    features = [SimpleNamespace(identifier=h, mm_position=p) for h, p in zip(hashes, old.mm_positions, strict=True)]
    return SimpleNamespace(mm_features=features, num_encoder_inputs=len(features))


@pytest.mark.parametrize("hashes", [[], [HASH], [HASH, HASH[::-1]]])
def test_both_forms_of_media_give_the_same_items(hashes: list[str]) -> None:
    assert media_items(*media(before(hashes))) == media_items(*media(since(hashes)))
    assert len(media_items(*media(since(hashes))) or ()) == len(hashes)


def test_media_without_hashes_cannot_be_named() -> None:
    assert media_items(*media(before([], count=1))) is None


@pytest.mark.parametrize("name", ["", "the-clients-own-name", "chatcmpl-7-image-0", HASH.upper(), HASH + "0"])
def test_a_name_that_is_no_content_hash_does_not_name_an_item(name: str) -> None:
    assert media_items(*media(since([HASH, name]))) is None


def test_a_prompt_given_as_embeddings_has_no_tokens() -> None:
    assert prompt_tokens(SimpleNamespace(prompt_token_ids=[1, 2])) == [1, 2]
    assert prompt_tokens(SimpleNamespace(prompt_token_ids=[1, 2], prompt_embeds=None)) == [1, 2]
    assert prompt_tokens(SimpleNamespace(prompt_token_ids=None, prompt_embeds=object())) is None


def test_no_new_blocks_may_be_none_or_an_empty_list() -> None:
    assert new_blocks(([4, 5],)) == [4, 5]
    assert new_blocks(([],)) == new_blocks(None) == []
