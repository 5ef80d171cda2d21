"""What P is asked for a request, as data."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.serving.pairing import PATHS, Settings, prefill_copy

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "x"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "documents": [{"text": "d"}],
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": False},
    "add_generation_prompt": False,
    "continue_final_message": True,
    "add_special_tokens": True,
    "mm_processor_kwargs": {"min_pixels": 3},
    "cache_salt": "s",
    "truncate_prompt_tokens": 7,
    "priority": 2,
}
SHAPES: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 3,
    "best_of": 4,
    "min_tokens": 2,
    "stop": ["."],
    "stop_token_ids": [5000],
    "logit_bias": {"99999": 1},
    "allowed_token_ids": [10**6],
    "bad_words": ["x"],
    "logprobs": True,
    "top_logprobs": 5,
    "response_format": {"type": "json_object"},
    "guided_json": {"type": "object"},
    "seed": 1,
    "temperature": 0.7,
    "use_beam_search": True,
    "request_id": "theirs",
    "kv_transfer_params": {"do_remote_decode": True},
    "never_heard_of": 1,
}


def copied(path: str, request: Any) -> Any:
    copy = prefill_copy(path, json.dumps(request).encode())
    return None if copy is None else json.loads(copy)


def test_what_decides_the_prompt_is_kept_and_what_shapes_the_answer_is_not() -> None:
    asked = {**CHAT, **SHAPES, "max_tokens": 100, "max_completion_tokens": 100}
    wanted = {**CHAT, "tool_choice": "none", "max_completion_tokens": 1}
    assert copied("/v1/chat/completions", asked) == wanted


def test_an_answer_of_a_model_that_thinks_keeps_how_much() -> None:
    asked = {"model": "m", "input": "x", "instructions": "y", "reasoning": {"effort": "low"}, "background": True}
    assert copied("/v1/responses", asked) == {
        "model": "m",
        "input": "x",
        "instructions": "y",
        "reasoning": {"effort": "low"},
        "store": False,
        "max_output_tokens": 1,
    }


@given(st.sampled_from(sorted(PATHS)), st.dictionaries(st.text(string.ascii_letters), VALUES), VALUES)
def test_a_prompt_reaches_p_as_it_is_and_for_one_token(path: str, more: dict[str, Any], prompt: Any) -> None:
    copy = copied(path, {**more, "prompt": prompt})
    if copy is None:
        assert more.get("echo") or more.get("prompt_logprobs") is not None or more.get("previous_response_id")
    else:
        assert copy["prompt"] == prompt
        assert copy[PATHS[path]] == 1
        assert "stream" not in copy


@pytest.mark.parametrize(
    "more", [{"echo": True}, {"prompt_logprobs": 0}, {"prompt_logprobs": 3}, {"previous_response_id": "r"}]
)
def test_what_p_could_not_help_with_is_ds_alone(more: dict[str, Any]) -> None:
    assert copied("/v1/completions", {"model": "m", "prompt": "x", **more}) is None


@pytest.mark.parametrize("more", [{"echo": None}, {"echo": False}, {"prompt_logprobs": None}])
def test_what_asks_for_nothing_is_no_reason(more: dict[str, Any]) -> None:
    assert copied("/v1/completions", {"model": "m", "prompt": "x", **more}) is not None


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"3", b"\xff", b"[" * 100_000])
def test_what_is_no_request_is_ds_to_answer(body: bytes) -> None:
    assert prefill_copy("/v1/completions", body) is None


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\u2028", "文"])
def test_text_that_few_send_reaches_p_as_it_was(text: str) -> None:
    assert copied("/v1/completions", {"prompt": text})["prompt"] == text


def test_settings_survive_a_variable() -> None:
    settings = Settings("http://h:1", decode_alone=True, retry_after_s=9)
    assert Settings.from_text(settings.as_text()) == settings
