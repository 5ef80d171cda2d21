from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from itertools import takewhile
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from workshop.bench.dataset.commands import SHAPES, Wanted, generate, make_shape
from workshop.bench.dataset.files import EXPORTS
from workshop.bench.dataset.shapes import Grouped
from workshop.bench.dataset.text import Writer
from workshop.bench.dataset.words import Words, load_words
from yrpd.errors import ConfigurationError, VerificationError
from yrpd.reporting import Reporter

SMALL = {"groups": 3, "per_group": 4}
IMAGE = 56  # pixels; four tokens


def make(model: Path, folder: Path, wanted: Wanted, tools: str = "") -> dict[str, object]:
    return generate(Reporter(as_json=True), wanted, model, folder, 4096, 16, tools)


def as_sent(folder: Path, seed: int = 0) -> list[dict[str, object]]:
    """Read the file as vLLM 0.10.0 does: whole, then shuffled by Python's own generator."""
    lines = [json.loads(line) for line in (folder / "vllm.jsonl").read_text(encoding="utf-8").splitlines()]
    random.seed(seed)
    random.shuffle(lines)
    return lines


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in ("images", "multi-turn")])
def test_every_prompt_has_exactly_the_tokens_asked_for(model: Path, tmp_path: Path, shape: str) -> None:
    make(model, tmp_path, Wanted(shape=shape, length=200, **SMALL))  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    lines = as_sent(tmp_path)
    assert len(lines) == (3 if shape == "unique" else 12)
    assert {len(tokenizer.encode(str(line["prompt"])).ids) for line in lines} == {200}


def test_prompts_of_a_group_share_exactly_their_prefix_and_other_groups_nothing(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path, Wanted(shape="grouped", length=200, share=0.25, **SMALL))  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    encoded = [tokenizer.encode(str(line["prompt"])).ids for line in as_sent(tmp_path)]
    special = len(tokenizer.encode("").ids)
    common = sorted(
        len(list(takewhile(lambda pair: pair[0] == pair[1], zip(encoded[a], encoded[b], strict=True))))
        for a in range(len(encoded))
        for b in range(a)
    )
    pairs_of_a_group = 3 * 6
    assert all(50 <= shared < 60 for shared in common[-pairs_of_a_group:])  # a suffix may begin alike by chance
    assert all(shared < special + 10 for shared in common[:-pairs_of_a_group])


def test_a_turn_begins_with_all_turns_before_it_and_the_last_has_the_length_asked_for(
    model: Path, tmp_path: Path
) -> None:
    make(model, tmp_path, Wanted(shape="multi-turn", length=200, **SMALL))  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    texts = [str(line["prompt"]) for line in as_sent(tmp_path)]
    lengths = [len(tokenizer.encode(text).ids) for text in texts]
    assert lengths == sorted(lengths)
    assert lengths[-3:] == [200, 200, 200]
    special_behind = tokenizer.encode("").ids[1:]
    if not special_behind:
        assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[3:], strict=False))


def test_requests_are_sent_in_the_shapes_order_after_vllms_own_shuffle(model: Path, tmp_path: Path) -> None:
    wanted = Wanted(shape="document", length=100, vllm_seed=7, **SMALL)  # type: ignore[arg-type]
    make(model, tmp_path, wanted)
    assert [line["index"] for line in as_sent(tmp_path, seed=7)] == list(range(12))


@pytest.mark.parametrize("shape", SHAPES)
def test_one_seed_gives_the_same_bytes_and_another_seed_or_salt_other_text(
    model: Path, tmp_path: Path, shape: str
) -> None:
    def of(name: str, **options: object) -> dict[str, str]:
        wanted = Wanted(shape=shape, length=64, image_edge=IMAGE, **SMALL, **options)  # type: ignore[arg-type]
        document = make(model, tmp_path / name, wanted, "aiperf,guidellm")
        files = document["files"]
        assert isinstance(files, dict)
        for file, digest in files.items():
            assert hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest() == digest
        return files

    first, again = of("a", seed=1), of("b", seed=1)
    assert first == again
    for other in (of("c", seed=2), of("d", seed=1, salt="x")):
        assert all(other[name] != digest for name, digest in first.items())


def test_the_bytes_of_a_seed_never_change(tmp_path: Path) -> None:
    words = Words(Tokenizer.from_str(_EMPTY), tuple(map(str, range(16))), tuple(range(16)), " ", (), (), "")
    assert words.text(words.draw("0//g0", 8)) == " 0 15 14 8 7 5 11 2"


def test_a_prompt_that_the_tokenizer_reads_otherwise_is_refused(model: Path) -> None:
    words = load_words(model)
    wrong = Words(words.tokenizer, words.words[::-1], words.ids, words.lead, words.before, words.after, "")
    shape = make_shape(Wanted(shape="unique", length=50, groups=2))
    with pytest.raises(VerificationError, match="50 tokens"):
        list(Writer(wrong, 0, "").prompts(shape, range(2)))


def test_a_file_that_is_no_tokenizer_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="is not a tokenizer"):
        load_words(tmp_path)


def test_a_long_workload_is_written_in_the_memory_of_a_short_one(model: Path) -> None:
    writer = Writer(load_words(model), 0, "")

    def peak(groups: int) -> int:
        shape = Grouped(groups, 10, 30, 30, "0")
        tracemalloc.start()
        for _ in writer.prompts(shape, range(shape.count)):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(20)
    assert peak(120) < 1.3 * peak(20)


def test_an_aiperf_conversation_is_one_line_with_each_turns_own_text(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path, Wanted(shape="multi-turn", length=200, **SMALL), "aiperf")  # type: ignore[arg-type]
    lines = [json.loads(line) for line in (tmp_path / EXPORTS["aiperf"]).read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 3
    last = {str(line["prompt"]) for line in as_sent(tmp_path)[-3:]}
    assert {"".join(turn["text"] for turn in line["turns"]) for line in lines} == last


def test_guidellm_gets_the_prompts_in_order_with_their_lengths(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path, Wanted(shape="tutorial", length=80, **SMALL), "guidellm")  # type: ignore[arg-type]
    lines = [json.loads(line) for line in (tmp_path / EXPORTS["guidellm"]).read_text(encoding="utf-8").splitlines()]
    assert [line["prompt"] for line in lines] == [line["prompt"] for line in as_sent(tmp_path)]
    assert {(line["prompt_tokens_count"], line["output_tokens_count"]) for line in lines} == {(80, 2)}


def test_images_recur_and_are_named_beside_their_questions(model: Path, tmp_path: Path) -> None:
    wanted = Wanted(shape="images", length=64, image_edge=IMAGE, **SMALL)  # type: ignore[arg-type]
    document = make(model, tmp_path, wanted)
    names = [str(line["image"]) for line in as_sent(tmp_path)]
    assert names == [f"image-{n}.png" for n in range(3)] * 4
    assert len({(tmp_path / name).read_bytes() for name in names}) == 3
    assert document["prompt_tokens"] == 12 * 64


_EMPTY = json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}})
