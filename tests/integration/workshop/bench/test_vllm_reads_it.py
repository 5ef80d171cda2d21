"""What ``invoke bench.dataset`` writes, read by the installed vLLM's own benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.workshop.bench.dataset import tokenizers_made
from workshop.bench.dataset.commands import Wanted, make_shape
from workshop.bench.dataset.files import write_vllm
from workshop.bench.dataset.text import Writer
from workshop.bench.dataset.words import load_words

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("family", ["byte_level_bpe", "unigram", "wordpiece"])
def test_vllms_custom_dataset_gives_every_prompt_its_length_in_the_order_of_the_shape(
    tmp_path: Path, family: str
) -> None:
    from transformers import PreTrainedTokenizerFast
    from vllm.benchmarks.datasets import CustomDataset

    getattr(tokenizers_made, family)().save(str(tmp_path / "tokenizer.json"))
    shape = make_shape(Wanted(shape="document", length=200, groups=3, per_group=4))
    writer = Writer(load_words(tmp_path), 0, "")
    path = tmp_path / "vllm.jsonl"
    write_vllm(path, writer, shape, 5, 2, lambda _: None)
    dataset = CustomDataset(dataset_path=str(path), random_seed=5)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    requests = dataset.sample(tokenizer=tokenizer, num_requests=12, output_len=2, skip_chat_template=True)
    assert [request.prompt_len for request in requests] == [200] * 12
    assert [request.prompt for request in requests] == [prompt.text for prompt in writer.prompts(shape, range(12))]
