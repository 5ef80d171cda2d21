"""An engine of the patched vllm-ascend in a process of its own, driven by lines of JSON.

Run as a script it is that process: vLLM's ``LLM`` with NPUPlatform, chosen by vllm-ascend's entry point. As a module it
is the test's side of it. The engine's core runs inside the process, so that a test can break the connector in it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SITE = Path(__file__).with_name("site")
MARK = "@@"  # begins the lines that are answers; all else on stdout is vLLM's


@dataclass(frozen=True)
class Answer:
    """What an engine said to one prompt: token ids, and the log-probability of each."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    def differs(self, other: Answer, tolerance: float = 2e-3) -> str:
        """Say how this differs from another answer; an empty string if it does not.

        Args:
            other: The answer it should be.
            tolerance: Of a log-probability. Batches of other sizes round float32 sums in another order.
        """
        if self.ids != other.ids:
            return f"{self.ids} is not {other.ids}"
        worst = max((abs(a - b) for a, b in zip(self.logprobs, other.logprobs, strict=True)), default=0.0)
        return "" if worst <= tolerance else f"the log-probabilities of {self.ids} are off by {worst:.4f}"


def environment(**extra: str) -> dict[str, str]:
    """Return the environment variables of a process with the emulated NPU; its library and vLLM's name are set."""
    # Not at the top: as a script this has another package `tests`.
    from tests import served_coverage

    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SITE), *served_coverage.paths()]),
        "EMULATED_NPU_MEMORY_MB": "512",
        "VLLM_USE_V1": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        **extra,
    }


class Engine:
    """The test's side.

    Args:
        options: Arguments of ``vllm.LLM``; ``scheduler_type`` names a class that is given as ``scheduler_cls``.
        log: Gets what the process writes.
        variables: More environment variables.
    """

    def __init__(self, options: dict[str, Any], log: Path, **variables: str) -> None:
        self._log = log
        command = [sys.executable, __file__, json.dumps(options)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True,
            env=environment(**variables), cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def __enter__(self) -> Engine:
        self.facts: dict[str, Any] = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=60)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()

    def generate(
        self, prompts: Sequence[Any], tokens: int = 8, adapters: Sequence[str | None] = (), **sampling: Any
    ) -> list[Answer]:
        """Serve prompts together.

        Args:
            prompts: Lists of token ids, ``{"prompt", "images"}`` with paths of images, or what vLLM takes.
            tokens: Length of each answer.
            adapters: The folder of each prompt's LoRA adapter, or None.
            sampling: More of vLLM's sampling parameters.
        """
        answers = self.call(
            "generate", prompts=list(prompts), tokens=tokens, adapters=list(adapters), sampling=sampling
        )
        return [Answer(tuple(answer["ids"]), tuple(answer["logprobs"])) for answer in answers]

    def metrics(self) -> dict[str, float]:
        """Return the connector's counters."""
        return dict(self.call("metrics"))

    def forget(self) -> None:
        """Empty the prefix cache in device memory."""
        self.call("forget")

    def call(self, operation: str, **arguments: Any) -> Any:
        """Let the process do something; returns its result.

        Raises:
            RuntimeError: It failed, or the process is gone.
        """
        assert self._process.stdin is not None
        print(json.dumps({"operation": operation, **arguments}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        watchdog = threading.Timer(900, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                if line.startswith(MARK):
                    document = json.loads(line[len(MARK) :])
                    if "error" in document:
                        raise RuntimeError(document["error"])
                    return document["result"]
                with self._log.open("a") as log:
                    log.write(line)
        finally:
            watchdog.cancel()
        raise RuntimeError(f"the engine is gone; the end of {self._log}:\n{self._log.read_text()[-4000:]}")


# -- the process -------------------------------------------------------------------------------------------------------


class Served:
    """What the process does for its test."""

    def __init__(self, options: dict[str, Any]) -> None:
        from vllm import LLM

        if "scheduler_type" in options:
            module, _, name = options.pop("scheduler_type").rpartition(".")
            options["scheduler_cls"] = getattr(importlib.import_module(module), name)
        self.llm = LLM(enforce_eager=True, seed=0, dtype="float32", gpu_memory_utilization=0.5, **options)
        self._undo: Any = None
        self._resumed = 0
        self._adapters: dict[str, int] = {}
        self._count_resumed()

    def _count_resumed(self) -> None:
        """At the scheduler: vLLM's counter needs statistics, and with them ``LLM`` wants output from every step."""
        core = getattr(self.llm.llm_engine.engine_core, "engine_core", None)
        if core is None:
            return
        schedule = core.scheduler.schedule

        def counted() -> Any:
            output = schedule()
            self._resumed += sum(output.scheduled_cached_reqs.resumed_from_preemption)
            return output

        core.scheduler.schedule = counted

    def facts(self) -> dict[str, Any]:
        """Return which classes really serve."""
        from vllm.platforms import current_platform

        core = self.llm.llm_engine.engine_core.engine_core
        worker = getattr(core.model_executor, "driver_worker", None)
        facts: dict[str, Any] = {
            "platform": type(current_platform).__name__,
            "scheduler": type(core.scheduler).__name__,
        }
        if worker is not None:
            runner = worker.worker.model_runner
            layer = next(iter(runner.vllm_config.compilation_config.static_forward_context.values()))
            facts["worker"] = type(worker.worker).__name__
            facts["runner"] = type(runner).__name__
            facts["attention"] = type(layer.impl).__name__
            facts["cache"] = [type(layer.kv_cache[0]).__name__, [str(part.device) for part in layer.kv_cache[0]]]
            facts["widths"] = [part.shape[-1] for part in layer.kv_cache[0]]
            facts["model"] = type(runner.model).__name__
        return facts

    def generate(
        self, prompts: list[Any], tokens: int, sampling: dict[str, Any], adapters: Sequence[str | None] = ()
    ) -> list[dict[str, Any]]:
        """Serve prompts, greedily unless told otherwise."""
        from PIL import Image
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        inputs: list[Any] = []
        for prompt in prompts:
            if isinstance(prompt, list):
                inputs.append({"prompt_token_ids": prompt})
            elif "images" not in prompt:
                inputs.append(prompt)
            else:
                images = [Image.open(path) for path in prompt["images"]]
                inputs.append({"prompt": prompt["prompt"], "multi_modal_data": {"image": images}})
        parameters = SamplingParams(
            **{"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "logprobs": 1, **sampling}
        )
        numbers = {folder: self._adapters.setdefault(folder, len(self._adapters) + 1) for folder in adapters if folder}
        requests = [folder and LoRARequest(Path(folder).name, numbers[folder], folder) for folder in adapters]
        return [
            {
                "ids": list(output.outputs[0].token_ids),
                "logprobs": [
                    float(row[token].logprob)
                    for token, row in zip(output.outputs[0].token_ids, output.outputs[0].logprobs or [], strict=True)
                ],
            }
            for output in self.llm.generate(inputs, parameters, use_tqdm=False, lora_request=requests or None)
        ]

    def leave(self, prompt: list[int], steps: int) -> list[str]:
        """Ask, let the engine make some steps, and leave, twice; returns the request's status before and after.

        The second time stands for a client that leaves when its request is gone already.
        """
        from vllm import SamplingParams

        engine, name = self.llm.llm_engine, "leaves"
        core = engine.engine_core.engine_core
        engine.add_request(name, {"prompt_token_ids": prompt}, SamplingParams(max_tokens=1))
        request = core.scheduler.requests[name]
        for _ in range(steps):
            engine.step()
        before = request.status.name
        engine.abort_request([name])
        core.abort_requests([name])
        return [before, request.status.name]

    def metrics(self) -> dict[str, float]:
        """Return the connector's counters, and how often a preempted request was resumed."""
        from prometheus_client import REGISTRY

        samples = (sample for family in REGISTRY.collect() for sample in family.samples)
        found: dict[str, float] = {}
        for sample in samples:
            if sample.name.startswith("yuanrong_") and sample.name.endswith("_total"):
                name = sample.name.removeprefix("yuanrong_").removesuffix("_total")
                found[name] = found.get(name, 0) + sample.value
        return {**found, "resumed": self._resumed}

    def forget(self) -> bool:
        """Empty the prefix cache in device memory."""
        return bool(self.llm.llm_engine.reset_prefix_cache())

    def mutate(self, name: str) -> None:
        """Break the connector."""
        assert self._undo is None
        # Beside this script: vllm-ascend's own `tests` package hides this project's in this process.
        self._undo = importlib.import_module("mutations").BY_NAME[name]()

    def mend(self) -> None:
        """Take the break back."""
        self._undo()
        self._undo = None


def serve() -> None:
    """Answer the lines on standard input."""
    answers = os.fdopen(os.dup(1), "w")

    def answer(**document: Any) -> None:
        print(f"{MARK}{json.dumps(document)}", file=answers, flush=True)

    served = Served(json.loads(sys.argv[1]))
    answer(result=served.facts())
    for line in sys.stdin:
        document = json.loads(line)
        try:
            answer(result=getattr(served, document.pop("operation"))(**document))
        except Exception as error:
            traceback.print_exc()
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    serve()
