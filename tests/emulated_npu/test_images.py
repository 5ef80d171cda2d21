"""Qwen2.5-VL on the emulated NPU, with AscendScheduler: images are encoded, shared, and never mixed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_npu.conftest import ASCEND, make_prompt, transfer
from tests.emulated_npu.engine import Answer, Engine

pytestmark = pytest.mark.emulated
#: Text before the image fills a block, the image two; the question follows.
PROMPT = f"{'A long description of what is to come. ' * 12}<|vision_start|><|image_pad|><|vision_end|>What is it?"


@pytest.fixture(scope="module")
def engine(models: Path, worker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Without chunked prefill, which the series' third patch makes possible for images."""
    options = {
        "model": str(models / "qwen2_5_vl"), "max_model_len": 1024, "max_num_seqs": 10, "max_num_batched_tokens": 1024,
        "limit_mm_per_prompt": {"image": 1, "video": 0}, "additional_config": ASCEND,
        "kv_transfer_config": transfer(worker),
    }  # fmt: skip
    with Engine(options, tmp_path_factory.mktemp("images") / "engine.log") as started:
        yield started


@pytest.fixture(scope="module")
def reference(models: Path) -> Any:
    """A function from an image to the answer that transformers computes."""
    import torch
    from PIL import Image
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

    folder = models / "qwen2_5_vl"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = Qwen2VLImageProcessor.from_pretrained(folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, torch_dtype=torch.float32, attn_implementation="eager"
    )

    def answer(image: Path, tokens: int = 8) -> Answer:
        pixels = processor(images=[Image.open(image)], return_tensors="pt")
        patches = int(pixels["image_grid_thw"].prod()) // 4
        ids = tokenizer(PROMPT.replace("<|image_pad|>", "<|image_pad|>" * patches), return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(
                **ids, **pixels, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        scores = [float(logits[0].log_softmax(-1).max()) for logits in out.logits]
        return Answer(tuple(int(token) for token in out.sequences[0, -tokens:]), tuple(scores))

    return answer


def test_images_are_answered_as_by_the_reference_and_shared_by_content(
    engine: Engine, models: Path, reference: Any
) -> None:
    assert engine.facts["model"] == "AscendQwen2_5_VLForConditionalGeneration"
    stripes, rings = (models / "images" / f"{name}.png" for name in ("stripes", "rings"))
    ask = [{"prompt": PROMPT, "images": [str(image)]} for image in (stripes, rings)]
    answers = [engine.generate([question])[0] for question in ask]
    for answer, image in zip(answers, (stripes, rings), strict=True):
        assert not answer.differs(reference(image), tolerance=1e-2)
    assert answers[0].differs(answers[1])
    before = engine.metrics()
    engine.forget()
    assert not engine.generate([ask[1]])[0].differs(answers[1])
    engine.forget()
    assert not engine.generate([ask[0]])[0].differs(answers[0])
    after = engine.metrics()
    blocks = after["loaded_blocks"] - before["loaded_blocks"]
    assert blocks >= 4, "both images' blocks came from the DataSystem"
    assert blocks % 2 == 0


def test_two_images_at_once_do_not_fit_together_into_one_answer(engine: Engine, models: Path, reference: Any) -> None:
    images = [models / "images" / f"{name}.png" for name in ("rings", "stripes")]
    engine.forget()
    answers = engine.generate([{"prompt": PROMPT, "images": [str(image)]} for image in images])
    for answer, image in zip(answers, images, strict=True):
        assert not answer.differs(reference(image), tolerance=1e-2)


def test_requests_whose_pictures_are_more_than_a_step_has_room_for_wait_for_the_next(
    engine: Engine, models: Path, reference: Any
) -> None:
    """Hits cover most of each picture, so that all requests fit into a step, and ten whole pictures do not."""
    image = models / "images" / "rings.png"
    ask = {"prompt": PROMPT, "images": [str(image)]}
    engine.generate([ask])
    for answer in engine.generate([ask] * 10):
        assert not answer.differs(reference(image), tolerance=1e-2)


def test_images_without_a_hash_are_computed_and_never_shared(
    models: Path, worker: Any, reference: Any, tmp_path: Path
) -> None:
    """With neither a prefix cache nor a cache of processed images, vLLM hashes no image."""
    options = {
        "model": str(models / "qwen2_5_vl"), "max_model_len": 1024, "max_num_seqs": 2, "max_num_batched_tokens": 1024,
        "limit_mm_per_prompt": {"image": 1, "video": 0}, "additional_config": ASCEND, "enable_prefix_caching": False,
        "disable_mm_preprocessor_cache": True, "kv_transfer_config": transfer(worker, tag="no-hash"),
    }  # fmt: skip
    image, text = models / "images" / "rings.png", make_prompt("beside it", 2 * 128 + 9)
    with Engine(options, tmp_path / "engine.log") as engine:
        for _ in range(2):
            answer = engine.generate([{"prompt": PROMPT, "images": [str(image)]}])[0]
            assert not answer.differs(reference(image), tolerance=1e-2)
        found = engine.metrics()
        assert found.get("saved_blocks", 0) == found.get("matched_tokens", 0) == 0
        for _ in range(2):
            engine.generate([text])
        found = engine.metrics()
        assert found["saved_blocks"] == found["loaded_blocks"] == 2, "text is shared"
