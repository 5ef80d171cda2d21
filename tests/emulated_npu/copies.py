"""The connector's NPU transport in a process of its own, driven by lines of JSON: blocks of a small cache, no model.

The copy policy, the CANN libraries and their faults are the process's environment. Run as a script it is that process;
as a module it is the test's side of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LAYERS, BLOCKS, SIZE, HEADS, WIDTH = 2, 8, 16, 2, 8


class Copies:
    """The test's side.

    Args:
        address: Of the DataSystem worker.
        log: Gets what the process writes.
        settings: The connector's.
        variables: The process's environment, beside ``engine.environment()``.
        python: The command line of its Python; this one's when not given.
    """

    def __init__(
        self,
        address: str,
        log: Path,
        settings: dict[str, Any],
        variables: dict[str, str],
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        from tests.emulated_npu.engine import environment

        self.log = log
        self._process = subprocess.Popen(
            [*python, __file__, json.dumps({"worker_address": address, **settings})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True,
            env=environment(**variables), cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # a copy that never ends would keep it
        self._process.communicate()

    def call(self, operation: str, **arguments: Any) -> Any:
        """Let the process do something; returns its result.

        Raises:
            RuntimeError: The process is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"operation": operation, **arguments}), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("@@"):
                return json.loads(line[2:])
            with self.log.open("a") as log:  # vLLM's logger writes to stdout
                log.write(line)
        raise RuntimeError(f"the process is gone; the end of {self.log}:\n{self.log.read_text()[-3000:]}")


# -- the process -------------------------------------------------------------------------------------------------------


class Process:
    """What the process does for its test."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch
        from vllm_ascend.distributed.yuanrong.config import ConnectorConfig
        from vllm_ascend.distributed.yuanrong.layout import KVLayout
        from vllm_ascend.distributed.yuanrong.transport import connect

        shape = (BLOCKS, SIZE, HEADS, WIDTH)
        self.caches = {
            f"l.{layer}": (torch.zeros(shape).to("npu:0"), torch.zeros(shape).to("npu:0")) for layer in range(LAYERS)
        }
        config = ConnectorConfig.from_extra(settings, "kv_both", {})
        self.transport = connect(config, "npu", KVLayout.from_caches(self.caches), 2000)
        self._pending: dict[str, Any] = {}

    def write(self, block: int, number: float) -> None:
        """Queue a kernel that fills a block; its end is nobody's business yet."""
        import torch
        import torch_npu

        slots = torch.arange(block * SIZE, (block + 1) * SIZE, dtype=torch.int32).to("npu:0")
        new = torch.full((SIZE, HEADS, WIDTH), number).to("npu:0")
        for keys, values in self.caches.values():
            torch_npu._npu_reshape_and_cache(key=new, value=new, key_cache=keys, value_cache=values, slot_indices=slots)

    def values(self, block: int) -> list[float]:
        """Return the different numbers that a block holds."""
        import torch

        parts = [part[block].cpu().flatten() for pair in self.caches.values() for part in pair]
        return sorted(set(torch.cat(parts).tolist()))

    def put(self, names: list[str], blocks: list[int], fence: bool = True) -> list[str | None]:
        """Save, with or without waiting for the kernels that wrote."""
        from vllm_ascend.distributed.yuanrong.transport.base import Guard

        if fence:
            self.transport.fence()()
        return list(self.transport.put(names, blocks, Guard()).causes)

    def get(self, names: list[str], blocks: list[int]) -> list[str | None]:
        """Load."""
        from vllm_ascend.distributed.yuanrong.transport.base import Guard

        return list(self.transport.get(names, blocks, Guard()).causes)

    def begin(self, way: str, names: list[str], blocks: list[int]) -> None:
        """Start to save or to load on a thread, and return once it is inside its guard."""
        from vllm_ascend.distributed.yuanrong.transport.base import Guard

        guard, inside, outcome = Guard(), threading.Event(), list[str | None]()
        enter = guard.enter

        def entered() -> bool:
            permitted = bool(enter())
            inside.set()
            return permitted

        guard.enter = entered
        method = getattr(self.transport, way)
        thread = threading.Thread(target=lambda: outcome.extend(method(names, blocks, guard).causes), daemon=True)
        thread.start()
        inside.wait()
        self._pending = {"guard": guard, "thread": thread, "outcome": outcome}

    def revoke(self, seconds: float) -> bool:
        """Take the blocks back; False if they are still touched after that time."""
        return bool(self._pending["guard"].revoke(seconds))

    def end(self) -> list[str | None]:
        """Wait for what was begun."""
        self._pending["thread"].join()
        return list(self._pending["outcome"])

    def trial(self) -> str | None:
        """Do what an engine does when it starts."""
        from vllm_ascend.distributed.yuanrong.trial import try_out

        cause: str | None = try_out(self.transport, "npu", 20)
        return cause

    def pinned(self) -> int:
        """Return the bytes of host memory that CANN has pinned for this process."""
        count = ctypes.CDLL("libascendcl.so").emulated_cann_pinned
        count.restype = ctypes.c_uint64
        return int(count())


def main() -> None:
    """Answer the lines on standard input."""
    answers = os.fdopen(os.dup(1), "w")
    import torch_npu  # noqa: F401

    process = Process(json.loads(sys.argv[1]))
    for line in sys.stdin:
        document = json.loads(line)
        result = getattr(process, document.pop("operation"))(**document)
        print(f"@@{json.dumps(result)}", file=answers, flush=True)


if __name__ == "__main__":
    main()
