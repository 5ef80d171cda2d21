"""Names of blocks: what must change a key does, what must not does not, in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yuanrong.keys import (
    LEGAL_KEY,
    MAX_KEY_LENGTH,
    BlockChain,
    MediaItem,
    Namespace,
    _extras,
    block_key,
    media_items,
    shard_name,
)

from tests.unit.connector.fakes import Range

SPACE = Namespace(
    model="/models/qwen", revision="", config_digest="c0ffee", dtype="torch.bfloat16", kv_dtype="auto:",
    quantization="", block_size=4, num_layers=28, num_kv_heads=4, head_size=128, tp_size=2, layout="npu:kv", tag="",
)  # fmt: skip
NS = SPACE.digest()
PLACEHOLDER = 151655


def chain(tokens: list[int], items: tuple[MediaItem, ...] = (), size: int = 4, **more: Any) -> list[bytes]:
    return BlockChain(NS, size, items, **more).extend(tokens)


def test_golden_vectors_never_change() -> None:
    assert SPACE.digest().hex() == GOLDEN["namespace"]
    assert [d.hex() for d in chain([1, 2, 3, 4, 5, 6, 7, 8, 9])] == GOLDEN["tokens"]
    assert [d.hex() for d in chain(list(range(8)), (MediaItem("cat", 2, 4),))] == GOLDEN["image"]
    assert [d.hex() for d in chain(list(range(4)), lora=("name", "/path"), salt="s")] == GOLDEN["lora and salt"]
    assert block_key(NS, "0of2", chain([1, 2, 3, 4])[0]) == GOLDEN["key"]


def test_golden_vectors_hold_in_other_processes_with_any_hash_seed() -> None:
    root = Path(__file__).parents[3]
    code = "from tests.unit.connector.test_keys import *; test_golden_vectors_never_change()"
    for seed in ("0", "1", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{root}:{root / 'connector_src'}"}
        path = os.pathsep.join([env["PYTHONPATH"], *[p for p in sys.path if p]])
        subprocess.run([sys.executable, "-c", code], check=True, env={**env, "PYTHONPATH": path}, cwd=root)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "/models/other"}, {"revision": "main"}, {"config_digest": "beef"}, {"dtype": "torch.float16"},
        {"kv_dtype": "int8:"}, {"quantization": "ascend"}, {"block_size": 8}, {"num_layers": 27}, {"num_kv_heads": 8},
        {"head_size": 64}, {"tp_size": 4}, {"layout": "cpu:kv"}, {"tag": "blue"},
    ],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_every_field_of_the_namespace_separates(change: dict[str, Any]) -> None:
    other = replace(SPACE, **change)
    assert other.digest() != NS
    assert BlockChain(other.digest(), 4).extend([1, 2, 3, 4]) != chain([1, 2, 3, 4])


def test_two_images_of_one_size_share_nothing_from_their_first_block_on() -> None:
    prompt = [1] * 6 + [PLACEHOLDER] * 10 + [2] * 8
    cat, dog = (chain(prompt, (MediaItem(name, 6, 10),)) for name in ("cat", "dog"))
    assert cat[0] == dog[0] == chain(prompt)[0]
    assert not set(cat[1:]) & set(dog[1:])
    assert not set(cat[1:]) & set(chain(prompt)[1:])


@pytest.mark.parametrize(("offset", "length"), [(6, 9), (5, 10), (7, 9)])
def test_an_image_at_another_place_has_other_keys(offset: int, length: int) -> None:
    prompt = [PLACEHOLDER] * 24
    assert chain(prompt, (MediaItem("cat", 6, 10),))[1:] != chain(prompt, (MediaItem("cat", offset, length),))[1:]


def test_the_order_of_two_images_matters_and_the_order_of_their_listing_does_not() -> None:
    prompt = [PLACEHOLDER] * 8
    a, b = MediaItem("cat", 0, 4), MediaItem("dog", 4, 4)
    assert chain(prompt, (a, b)) == chain(prompt, (b, a))
    assert chain(prompt, (a, b))[0] != chain(prompt, (MediaItem("dog", 0, 4), MediaItem("cat", 4, 4)))[0]


@pytest.mark.parametrize(("offset", "touched"), [(3, [0]), (4, [1]), (0, [0])])
def test_an_item_touches_exactly_the_blocks_that_it_overlaps(offset: int, touched: list[int]) -> None:
    plain, marked = chain([0] * 12), chain([0] * 12, (MediaItem("x", offset, 1),))
    assert [i for i in range(3) if plain[i] != marked[i]][:1] == touched


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 9))
def test_an_item_names_the_blocks_that_hold_its_tokens_and_no_other(offset: int, length: int, size: int) -> None:
    assert _extras([MediaItem("x", offset, length)], size).keys() == {t // size for t in range(offset, offset + length)}


def test_lora_and_salt_separate_everything_and_are_not_mixed_up() -> None:
    variants: list[dict[str, Any]] = [
        {}, {"lora": ("a", "/a")}, {"lora": ("a", "/b")}, {"lora": ("b", "/a")}, {"salt": "a"}, {"salt": "b"},
        {"salt": ""}, {"lora": ("a", "/a"), "salt": "a"}, {"lora": ("a/", "a")},
    ]  # fmt: skip
    first = [chain([1, 2, 3, 4], **v)[0] for v in variants]
    assert len(set(first)) == len(variants)


tokens = st.lists(st.integers(0, 200_000), max_size=60)


@given(tokens, st.integers(1, 9), st.lists(st.integers(0, 60), max_size=4))
def test_hashing_in_pieces_equals_hashing_at_once(prompt: list[int], size: int, cuts: list[int]) -> None:
    whole, pieces = BlockChain(NS, size), BlockChain(NS, size)
    for cut in [*sorted(cuts), len(prompt)]:
        pieces.extend(prompt, cut)
        assert len(pieces.digests) == min(cut, len(prompt)) // size
    assert pieces.digests == whole.extend(prompt)
    assert len(whole.digests) == len(prompt) // size


@given(tokens, tokens, st.integers(1, 5))
def test_blocks_are_shared_exactly_as_far_as_the_prompts_agree(a: list[int], b: list[int], size: int) -> None:
    agree = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    one, two = BlockChain(NS, size).extend(a), BlockChain(NS, size).extend(b)
    assert one[: agree // size] == two[: agree // size]
    assert not set(one[agree // size :]) & set(two[agree // size :])


items = st.lists(
    st.builds(MediaItem, st.sampled_from(["cat", "dog", "ca", "t"]), st.integers(0, 30), st.integers(1, 12)), max_size=3
)


@given(items, items)
def test_different_media_never_end_in_one_key(a: list[MediaItem], b: list[MediaItem]) -> None:
    prompt = [PLACEHOLDER] * 48

    def order(i: MediaItem) -> tuple[int, int, str]:
        return (i.offset, i.length, i.digest)

    same = sorted(a, key=order) == sorted(b, key=order)
    assert (chain(prompt, tuple(a))[-1] == chain(prompt, tuple(b))[-1]) == same


@given(st.text(max_size=40), st.integers(0, 512), st.integers(1, 512), st.booleans())
def test_keys_are_legal_for_the_datasystem(model: str, rank: int, size: int, shared: bool) -> None:
    namespace = replace(SPACE, model=model, tag="x").digest()
    key = block_key(namespace, shard_name(rank, size, shared=shared), chain([1, 2, 3, 4])[0])
    assert LEGAL_KEY.fullmatch(key)
    assert len(key) <= MAX_KEY_LENGTH


def test_ranks_have_keys_of_their_own_unless_the_cache_is_shared() -> None:
    assert shard_name(0, 2, shared=False) != shard_name(1, 2, shared=False) != shard_name(1, 4, shared=False)
    assert shard_name(0, 2, shared=True) == shard_name(1, 4, shared=True) == "m"


def test_media_without_a_full_hash_cannot_be_named() -> None:
    where = [Range(0, 4)]
    assert media_items(["cat"], where, 1) == (MediaItem("cat", 0, 4),)
    assert media_items([], [], 0) == ()
    for hashes, ranges in (([], where), ([None], where), ([""], where), (["cat"], []), (["cat", "dog"], where)):
        assert media_items(hashes, ranges, 1) is None


#: Computed once and frozen: a change here means that stored blocks are no longer found, so raise FORMAT_VERSION.
GOLDEN: dict[str, Any] = {
    "namespace": "32be4884855639c4ba1d74a60c5b873d137c71f9645d45e3ee6605fb1c1463d5",
    "tokens": [
        "1082060ff20972d9f42bdfde97ee1fee8c6cdbe7663cf7b08d339d660c6d7603",
        "11c93fd403b8a97c7459cd73604877f7179e43ed5877d20ff89015f12668b431",
    ],
    "image": [
        "7001010db4abf92da0f26cab9e71356a8418b49ae6e85b8cde18821c14e67ba8",
        "832490efb9268f55cd58c2543c7c5b5dc73a70365bcba6b934dc7c2f3ac37919",
    ],
    "lora and salt": ["0e8db3df13246fa92a99b5d78a501416995267b2aa184ed655f596d8adb702d8"],
    "key": "yr1_32be4884855639c4ba1d74a60c5b873d_0of2_1082060ff20972d9f42bdfde97ee1fee8c6cdbe7663cf7b08d339d660c6d7603",
}
