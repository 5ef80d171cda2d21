"""Build tiny models with random weights, for machines that reach no model hub.

Three models, and two images to ask about: a Qwen2 and a Qwen2.5-VL of 4 layers each, and a wide Qwen2 of 2 layers, in
float32. They are of no use to talk to; the first two are there to tell a right KV cache from a wrong one, the third is
the benchmark's. Everything comes from fixed seeds: the same versions give the same bytes. Runs in the environment that
`invoke build --flavour cpu` makes: it needs torch and transformers.

Weights as they are usually initialised (0.02) give a model that answers every prompt with the same token. Here every
projection keeps the variance of what goes in, and attention is sharp: the answer hangs on single tokens far back in the
prompt.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
)

SEED = 20250731
VOCABULARY = 1024
MAX_POSITIONS = 32768
IMAGE_EDGE = 448  # 256 tokens: an image fills two KV blocks, so a wrong block of an image is seen
# The benchmark's model: as in a large one, nearly all of a prompt's cost is its projections', token by token. With less
# of them, attention and what every request costs would hide what a found token saves (docs/bench/running.md). Two
# layers, so that a block's content depends on all that stands before it.
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 16384,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
# Written as the published models write them; the order gives the token numbers.
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# The published splitting rule of the Qwen2 tokenizer.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(corpus: Path) -> Qwen2TokenizerFast:
    """Train a byte-level BPE on a text: any text can be encoded, and decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = ByteLevelProcessor(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.read_text(encoding="utf-8").splitlines(), trainer)
    fast = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        unk_token=None,
        bos_token=None,
        additional_special_tokens=[token for token in SPECIAL if token not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=MAX_POSITIONS,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def text_settings(tokenizer: Qwen2TokenizerFast) -> dict[str, Any]:
    """Return the sizes that the models share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    }


def vision_settings() -> dict[str, Any]:
    """Return the image encoder's sizes: two blocks, the second with attention over the whole image."""
    return {
        "depth": 2,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": 256,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "in_channels": 3,
        "hidden_act": "silu",
    }


def fill(model: PreTrainedModel, tokenizer: Qwen2TokenizerFast) -> None:
    """Give every parameter its value, from its name alone.

    The normal numbers are numpy's, which are the same on every machine; torch's depend on the processor.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_q" in name:
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                random = np.random.default_rng([SEED, zlib.crc32(name.encode())])
                values = random.standard_normal(tuple(parameter.shape), dtype=np.float32)
                parameter.copy_(torch.from_numpy(values) * spread(name, parameter))
        # A special token in an answer would end it, or stand for an image that is not there: never the likeliest one.
        special = [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL]
        model.get_output_embeddings().weight[special] = 0.0


def spread(name: str, parameter: torch.Tensor) -> float:
    """Return the standard deviation of a parameter's values; the gains were found by measuring (docs/lab.md)."""
    if "embed_tokens" in name:
        return 1.0
    fan_in = math.prod(parameter.shape[1:])
    gains = {"q_proj": 2.0, "k_proj": 2.0, "o_proj": 2.0, "lm_head": 3.0, "merger.mlp": 1.5}
    gain = next((gain for part, gain in gains.items() if part in name), 1.0)
    return gain / math.sqrt(fan_in)


def make_text_model(
    folder: Path, tokenizer: Qwen2TokenizerFast, sizes: Mapping[str, int] = MappingProxyType({})
) -> None:
    """Write a Qwen2 model, with other sizes where they are given."""
    model = Qwen2ForCausalLM(Qwen2Config(**{**text_settings(tokenizer), **sizes}, torch_dtype="float32"))
    fill(model, tokenizer)
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    save_tokenizer(folder, tokenizer)


def make_image_model(folder: Path, tokenizer: Qwen2TokenizerFast) -> None:
    """Write a Qwen2.5-VL model, its configuration in the flat layout of the published one."""
    text = text_settings(tokenizer)
    rope = {"type": "mrope", "mrope_section": [8, 12, 12]}  # in all, half of a head's 64 dimensions
    numbers = {
        f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for key, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    config = Qwen2_5_VLConfig(
        **text, **numbers, vision_config=vision_settings(), rope_scaling=dict(rope), torch_dtype="float32"
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    fill(model, tokenizer)
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    published = {
        **text,
        **numbers,
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": MAX_POSITIONS,
        "max_window_layers": text["num_hidden_layers"],
        "attention_dropout": 0.0,
        "rope_scaling": rope,
        "torch_dtype": "float32",
        "vision_config": {**vision_settings(), "model_type": "qwen2_5_vl", "in_chans": 3, "spatial_patch_size": 14},
    }
    write_json(folder / "config.json", published)
    save_tokenizer(folder, tokenizer)
    processor = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=IMAGE_EDGE * IMAGE_EDGE)
    processor.save_pretrained(folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    write_json(folder / "preprocessor_config.json", {**settings, "processor_class": "Qwen2_5_VLProcessor"})


def save_tokenizer(folder: Path, tokenizer: Qwen2TokenizerFast) -> None:
    """Write the tokenizer with its chat template, where old and new readers look for it."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**settings, "chat_template": CHAT_TEMPLATE})
    write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def make_images(folder: Path) -> None:
    """Write two images of the same size that share nothing else; no two parts of one are alike either."""
    folder.mkdir(parents=True)
    down, across = np.mgrid[0:IMAGE_EDGE, 0:IMAGE_EDGE]
    stripes = np.stack([(across // 32 % 2) * 255, across * 255 // IMAGE_EDGE, (down // 112) * 60], axis=-1)
    distance = np.hypot(down - IMAGE_EDGE / 2, across - IMAGE_EDGE / 2)
    rings = np.stack([255 - distance * 0.75, (distance // 24 % 2) * 200, 80 + distance * 0.25], axis=-1)
    for name, drawing in (("stripes", stripes), ("rings", rings)):
        tiles = np.random.default_rng([SEED, zlib.crc32(name.encode())]).integers(0, 256, (16, 16, 3))
        pixels = 0.6 * drawing + 0.4 * np.kron(tiles, np.ones((IMAGE_EDGE // 16, IMAGE_EDGE // 16, 1)))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{name}.png", optimize=False)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document, always the same way."""
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Make the models and the images below a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder that gets qwen2/, qwen2_wide/, qwen2_5_vl/ and images/"
    )
    parser.add_argument("--corpus", type=Path, default=Path(__file__).with_name("corpus.txt"), help="tokenizer's text")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = make_tokenizer(options.corpus)
    make_text_model(options.out / "qwen2", tokenizer)
    make_text_model(options.out / "qwen2_wide", tokenizer, WIDE)
    make_image_model(options.out / "qwen2_5_vl", tokenizer)
    make_images(options.out / "images")


if __name__ == "__main__":
    main()
