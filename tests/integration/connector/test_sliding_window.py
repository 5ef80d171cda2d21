"""Models that attend to a window: vLLM puts its null block in the place of what the window has left behind."""

from __future__ import annotations

import ctypes
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

import torch  # noqa: E402
from vllm.v1.kv_cache_interface import SlidingWindowSpec  # noqa: E402

import tests.integration.connector.engine as engine_module  # noqa: E402
from tests.integration.connector.engine import MASK, Engine, Setup  # noqa: E402

WINDOW = 8


def window_spec(block_size: int, heads: int, head_size: int) -> SlidingWindowSpec:
    mla = {"use_mla": False} if "use_mla" in {field.name for field in fields(SlidingWindowSpec)} else {}
    return SlidingWindowSpec(
        block_size=block_size,
        num_kv_heads=heads,
        head_size=head_size,
        dtype=torch.float32,
        sliding_window=WINDOW,
        **mla,
    )


class Windowed(Engine):
    """An engine whose tokens look at the window before them alone; the rest may be anybody's."""

    def _check_and_write(self, rid: str, state: Any, values: list[int], rank: int) -> None:
        size, blocks = self.setup.block_size, self.setup.blocks
        words = ctypes.cast(self.memories[rank].data_ptr(), ctypes.POINTER(ctypes.c_uint64))
        for position, value in enumerate(values):
            key = state.blocks[position // size] * size + position % size
            if position >= state.computed:
                words[key], words[key + blocks * size] = value, value ^ MASK
            elif position > state.computed - WINDOW:
                assert state.blocks[position // size] != 0, f"{rid}: nothing at {position}"
                assert words[key] == value, f"{rid}: wrong K at {position} of {state.computed}"


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, ascend: bool, store: dict[str, bytes], **more: Any) -> Windowed:
    monkeypatch.setattr(engine_module, "attention_spec", window_spec)
    engine = Windowed(Setup(ascend=ascend, **more), store, folder, random.Random(1))
    engine.speed = 1.0
    return engine


PROMPT = [i % 50 for i in range(40)]


@pytest.mark.parametrize("ascend", [False, True])
def test_a_local_hit_of_which_the_datasystem_has_nothing_saves_no_null_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ascend: bool
) -> None:
    store: dict[str, bytes] = {}
    engine = made(tmp_path, monkeypatch, ascend, store, blocks=40, budget=64, chunked=not ascend)
    engine.fault = lambda op, key: "full" if op == "put" else None
    engine.add("first", [*PROMPT, 1], 1)
    engine.finish()
    assert not store
    engine.fault = lambda op, key: None
    saved: list[int] = []
    side = engine.scheduler.connector._scheduler
    plan = side.plan

    def recorded(output: Any) -> Any:
        made_plan = plan(output)
        saved.extend(block for spec in made_plan.saves for block in spec.blocks)
        return made_plan

    side.plan = recorded
    engine.add("second", [*PROMPT, 2], 1)
    engine.finish()  # and what is stored is what its key says
    assert saved
    assert 0 not in saved
    assert len(store) == len(saved)
    engine.add("shorter", PROMPT[:33], 2)  # for it, other blocks are inside the window
    engine.finish()


@pytest.mark.parametrize("ascend", [False, True])
def test_random_requests_of_a_window_are_right_and_leave_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ascend: bool
) -> None:
    totals: dict[str, int] = {}
    for seed in range(40):
        rng = random.Random(seed)
        store: dict[str, bytes] = {}
        blocks = rng.choice([13, 14, 30])
        engines = [
            made(tmp_path, monkeypatch, ascend, store, blocks=blocks, budget=64, chunked=not ascend) for _ in range(2)
        ]
        for engine in engines:
            engine.rng, engine.speed = rng, rng.choice([0.3, 1.0])
            engine.fault = lambda op, key, r=rng: "full" if op == "put" and r.random() < 0.3 else None  # type: ignore[misc]
        for number in range(12):
            engine = rng.choice(engines)
            engine.add(f"r{number}", [*PROMPT[: rng.randrange(1, 41)], rng.randrange(3)], rng.randrange(1, 23))
            for _ in range(rng.randrange(4)):
                rng.choice(engines).step()
        for engine in engines:
            engine.finish()
            for name, count in engine.counts.items():
                totals[name] = totals.get(name, 0) + count
    assert min(totals[name] for name in ("loaded_blocks", "saved_blocks", "resumed")) > 0, totals
