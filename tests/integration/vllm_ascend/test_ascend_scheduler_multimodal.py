"""The patched AscendScheduler with multimodal requests, without chunked prefill: the real class over real blocks.

Only the encoder's budget is given instead of measured, since measuring it needs a model's image processor.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from workshop.vllm_objects import (  # noqa: E402
    attention_spec,
    forget_encoder_outputs,
    make_request,
    model_output,
    room_for_encoder_outputs,
)

BLOCK = 16
IMAGE_TOKENS = 40
BATCHED_TOKENS = 256


@pytest.fixture
def make_scheduler(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[..., Any]:
    from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
    from vllm.v1.core.sched import scheduler as base
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    def make(blocks: int, *, batched_tokens: int = BATCHED_TOKENS, prefix_caching: bool = True) -> Any:
        from vllm_ascend.core.scheduler import AscendScheduler

        (tmp_path / "config.json").write_text(
            '{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2,'
            ' "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 1000,'
            ' "max_position_embeddings": 4096, "torch_dtype": "float32"}'
        )
        model = ModelConfig(model=str(tmp_path), tokenizer=str(tmp_path), skip_tokenizer_init=True, dtype="float32")
        config = VllmConfig(
            model_config=model,
            cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=prefix_caching),
            scheduler_config=SchedulerConfig(
                max_num_seqs=16,
                max_model_len=batched_tokens,
                max_num_batched_tokens=batched_tokens,
                enable_chunked_prefill=False,
            ),
        )
        config.scheduler_config.chunked_prefill_enabled = False
        config.cache_config.num_gpu_blocks = blocks
        monkeypatch.setattr(base, "compute_encoder_budget", lambda **_: (batched_tokens, batched_tokens))
        spec = attention_spec(BLOCK, 2, 16)
        return AscendScheduler(
            config,
            KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]),
            StructuredOutputManager(config),
        )

    return make


def request(name: str, tokens: int, images: list[tuple[int, str]], *, output: int = 4, seed: str = "") -> Any:
    """A request of ``tokens`` prompt tokens from its name (or seed), with an image of IMAGE_TOKENS at each offset."""
    rng = random.Random(seed or name)
    prompt = [rng.randrange(10, 1000) for _ in range(tokens)]
    return make_request(name, prompt, [(digest, offset, IMAGE_TOKENS) for offset, digest in images], output, BLOCK)


def answer(scheduler: Any, output: Any) -> None:
    """What a model runner returns: one token for every scheduled request."""
    names = list(output.num_scheduled_tokens)
    scheduler.update_from_output(output, model_output(names, [[7]] * len(names)))


def run(scheduler: Any, steps: int = 500, *, forgetful: bool = False) -> list[Any]:
    """Step until nothing is left; every step's output."""
    outputs: list[Any] = []
    while scheduler.has_unfinished_requests():
        if forgetful:
            forget_encoder_outputs(scheduler)
        outputs.append(scheduler.schedule())
        answer(scheduler, outputs[-1])
        assert len(outputs) < steps, "stalled"
    return outputs


def test_a_new_request_gets_its_encoder_inputs_and_they_are_freed(make_scheduler: Callable[..., Any]) -> None:
    scheduler = make_scheduler(64)
    room = room_for_encoder_outputs(scheduler)
    scheduler.add_request(request("a", 120, [(4, "x"), (60, "y")]))
    first = scheduler.schedule()
    assert first.scheduled_encoder_inputs == {"a": [0, 1]}
    assert first.num_scheduled_tokens == {"a": 120}
    assert room_for_encoder_outputs(scheduler) == room
    answer(scheduler, first)
    second = scheduler.schedule()
    assert second.scheduled_encoder_inputs == {}


def test_an_image_that_a_prefix_hit_covers_is_not_encoded_again(make_scheduler: Callable[..., Any]) -> None:
    scheduler = make_scheduler(64)
    scheduler.add_request(request("a", 120, [(0, "x"), (70, "y")]))
    run(scheduler)
    again = request("a", 120, [(0, "x"), (70, "y")])
    scheduler.add_request(again)
    output = scheduler.schedule()
    # 7 blocks = 112 tokens are cached: both images (0-40, 70-110) are covered.
    assert output.num_scheduled_tokens == {"a": 120 - 112}
    assert output.scheduled_encoder_inputs == {}


def test_a_hit_that_ends_inside_an_image_encodes_that_image(make_scheduler: Callable[..., Any]) -> None:
    scheduler = make_scheduler(64)
    scheduler.add_request(request("a", 150, [(90, "x")]))
    run(scheduler)
    forget_encoder_outputs(scheduler)
    scheduler.add_request(request("b", 125, [(90, "x")], seed="a"))  # its prompt ends inside the image
    output = scheduler.schedule()
    assert output.scheduled_new_reqs[0].num_computed_tokens == 112
    assert output.scheduled_encoder_inputs == {"b": [0]}


def test_a_prompt_is_never_scheduled_in_part(make_scheduler: Callable[..., Any]) -> None:
    scheduler = make_scheduler(64)
    scheduler.max_num_encoder_input_tokens = 3 * IMAGE_TOKENS
    scheduler.encoder_cache_manager = type(scheduler.encoder_cache_manager)(cache_size=3 * IMAGE_TOKENS)
    for name in ("a", "b"):
        scheduler.add_request(request(name, 100, [(2, name + "1"), (50, name + "2")]))
    first = scheduler.schedule()
    assert first.num_scheduled_tokens == {"a": 100}
    answer(scheduler, first)
    second = scheduler.schedule()
    assert second.num_scheduled_tokens == {"b": 100}
    assert second.scheduled_encoder_inputs == {"b": [0, 1]}


def test_a_resumed_request_gets_its_encoder_inputs_again(make_scheduler: Callable[..., Any]) -> None:
    # Two requests of 6 blocks each in a cache of 13 usable ones: growing past a block boundary preempts one.
    scheduler = make_scheduler(14, prefix_caching=False)
    for name in ("a", "b"):
        scheduler.add_request(request(name, 94, [(3, name)], output=12))
    outputs = run(scheduler, forgetful=True)
    resumed = [o for o in outputs if any(o.scheduled_cached_reqs.resumed_from_preemption)]
    assert resumed, "nothing was preempted, so nothing was shown"
    for output in resumed:
        cached = output.scheduled_cached_reqs
        for name, is_resumed in zip(cached.req_ids, cached.resumed_from_preemption, strict=True):
            if is_resumed:
                assert output.scheduled_encoder_inputs[name] == [0]


@pytest.mark.parametrize("seed", range(20))
def test_a_full_cache_and_many_images_never_stall_or_leak(make_scheduler: Callable[..., Any], seed: int) -> None:
    rng = random.Random(seed)
    scheduler = make_scheduler(rng.randrange(20, 40))
    free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    room = room_for_encoder_outputs(scheduler)
    for number in range(30):
        count = rng.randrange(4)
        offsets = sorted(rng.sample(range(4), count))
        tokens = 4 * 48 + rng.randrange(1, 40)
        scheduler.add_request(
            request(
                f"r{number}",
                tokens,
                [(48 * o + rng.randrange(8), rng.choice("xyz")) for o in offsets],
                output=rng.randrange(1, 20),
            )
        )
    run(scheduler, steps=3000)
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == free
    assert room_for_encoder_outputs(scheduler) == room


def test_the_configuration_accepts_multimodal_models() -> None:
    from vllm.config import SchedulerConfig
    from vllm_ascend.core.schedule_config import AscendSchedulerConfig

    config = AscendSchedulerConfig.initialize_from_config(SchedulerConfig(is_multimodal_model=True), {})
    assert config.is_multimodal_model
    assert config.max_num_encoder_input_tokens == config.max_num_batched_tokens
