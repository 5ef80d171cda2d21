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
    quantization="", block_size=4, num_layers=28, num_kv_heads=4, head_size=128, tp_size=2, layout="npu:kv:nd", tag="",
    weights="whole:1234", kernels="vllm 0.10.0", epoch="",
)  # fmt: skip
NS = SPACE.digest()
PLACEHOLDER = 151655


def chain(tokens: list[int], items: tuple[MediaItem, ...] = (), size: int = 4, **more: Any) -> list[bytes]:
    return BlockChain(NS, size, items, **more).extend(tokens)


def test_golden_vectors_never_change() -> None:
    assert SPACE.digest().hex() == GOLDEN["namespace"]
    assert [d.hex() for d in chain([1, 2, 3, 4, 5, 6, 7, 8, 9])] == GOLDEN["tokens"]
    assert [d.hex() for d in chain(list(range(8)), (MediaItem("cat", 2, 4),))] == GOLDEN["image"]
    assert [d.hex() for d in chain(list(range(4)), lora="whole:1234", salt="s")] == GOLDEN["lora and salt"]
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
        {"head_size": 64}, {"tp_size": 4}, {"layout": "cpu:kv:paged"}, {"tag": "blue"},
        {"weights": "whole:5678"}, {"kernels": "vllm 0.11.0"}, {"epoch": "1"}, {"layout": "npu:kv:nd-nz"},
    ],
    ids=str,
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
        {}, {"lora": "a"}, {"lora": "b"}, {"lora": ""}, {"salt": "a"}, {"salt": "b"}, {"salt": ""},
        {"lora": "a", "salt": "a"}, {"lora": "a", "salt": ""}, {"lora": "", "salt": "a"},
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
    "namespace": "f7ac02e27e35a835cbf4b0776b86668505fa2cb9afe966a9da30b62dac57fd29",
    "tokens": [
        "97fdc66f020eb956547d8437dcf7203f44c871e62e83e983516136baba73e089",
        "d810a0932a3115e534e0e49ba7eaff9928ec70dfdda3522ebcf9fe0087506107",
    ],
    "image": [
        "a568c172cf1be973915a0c1e4eab16b967e0e4b6c3c3bae93a65a67eec1182f6",
        "ee0dc2ff22a370580a1e19bae3b445f2c3a77ac98b2b7fe0b3a9eca5b7acae26",
    ],
    "lora and salt": ["82fac3e237915bf27fb10e17c8bfd6e0c4dd77198fa1285fbfa506b8b8de3933"],
    "key": "yr2_f7ac02e27e35a835cbf4b0776b866685_0of2_97fdc66f020eb956547d8437dcf7203f44c871e62e83e983516136baba73e089",
}
