from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.workshop.bench.dataset import tokenizers_made


@pytest.fixture(scope="session", params=["byte_level_bpe", "unigram", "wordpiece"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, as far as a dataset needs it."""
    folder = tmp_path_factory.mktemp(request.param)
    getattr(tokenizers_made, request.param)().save(str(folder / "tokenizer.json"))
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 256}
    (folder / "config.json").write_text(json.dumps({**sizes, "torch_dtype": "float32"}))
    return folder
