"""Models that attend to a window: vLLM puts its null block in the place of what the window has left behind."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from tests.integration.connector.engine import MASK, Engine, Setup  # noqa: E402

WINDOW = 8


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


def made(folder: Path, ascend: bool, store: dict[str, bytes], **more: Any) -> Windowed:
    engine = Windowed(Setup(ascend=ascend, window=WINDOW, **more), store, folder, random.Random(1))
    engine.speed = 1.0
    return engine


PROMPT = [i % 50 for i in range(40)]


@pytest.mark.parametrize("ascend", [False, True])
def test_a_local_hit_of_which_the_datasystem_has_nothing_saves_no_null_block(tmp_path: Path, ascend: bool) -> None:
    store: dict[str, bytes] = {}
    engine = made(tmp_path, ascend, store, blocks=40, budget=64, chunked=not ascend)
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
