"""``vllm bench serve`` of the pinned vLLM as load generator.

Its entry point is called in one process that stays, because importing vLLM takes longer than many a measurement. Each
call gets a command line and ends with a line of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from workshop.bench.runs.profiles import OUTPUT_TOKENS
from workshop.bench.runs.servers import Engine, environment
from yrpd.errors import EnvironmentFailure

DONE = "yrpd-bench-done "
_SERVE = f"""
import argparse, json, sys, traceback
from vllm.benchmarks import serve
from vllm.utils import FlexibleArgumentParser
parser = FlexibleArgumentParser(); serve.add_cli_args(parser)
print({DONE!r} + '""', flush=True)
for line in sys.stdin:
    error = ""
    try:
        serve.main(parser.parse_args(json.loads(line)))
    except BaseException as caught:
        traceback.print_exc(); error = repr(caught)
    print({DONE!r} + json.dumps(error), flush=True)
"""


def argv(
    engine: Engine, model: Path, dataset: Path, count: int, concurrency: int, rate: float, result: Path
) -> list[str]:
    """Return what stands behind ``vllm bench serve``.

    Args:
        engine: Whom to ask.
        model: Folder with the tokenizer.
        dataset: The JSONL file.
        count: Its lines.
        concurrency: Requests at a time; 0 for an open loop.
        rate: Requests a second of an open loop.
        result: File that gets the result with every request's times.
    """
    words = [
        "--backend", "vllm",
        "--endpoint-type", "openai",
        "--base-url", engine.url,
        "--endpoint", "/v1/completions",
        "--model", "bench",
        "--tokenizer", str(model),
        "--dataset-name", "custom",
        "--dataset-path", str(dataset),
        "--custom-output-len", str(OUTPUT_TOKENS),
        "--custom-skip-chat-template",
        "--num-prompts", str(count),
        "--seed", "0",
        "--ignore-eos",
        "--disable-tqdm",
        "--save-result",
        "--save-detailed",
        "--result-dir", str(result.parent),
        "--result-filename", result.name,
        "--percentile-metrics", "ttft,tpot,itl,e2el",
        "--metric-percentiles", "50,90,99",
    ]  # fmt: skip
    return [*words, "--max-concurrency", str(concurrency)] if concurrency else [*words, "--request-rate", f"{rate:.6g}"]


class Generator:
    """The process that stays."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._await()

    def run(self, words: Sequence[str]) -> None:
        """Send a dataset and wait for its end.

        Raises:
            EnvironmentFailure: The benchmark failed.
        """
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe
        self._process.stdin.write(json.dumps(list(words)) + "\n")
        self._process.stdin.flush()
        self._await()

    def _await(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - opened as a pipe
        with self._log.open("a", encoding="utf-8") as log:
            for line in self._process.stdout:
                if line.startswith(DONE):
                    error = json.loads(line.removeprefix(DONE))
                    break
                log.write(line)
            else:
                error = "it ended"
        if error:
            tail = "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
            raise EnvironmentFailure(f"vllm bench serve failed: {error}.", detail=tail)


@contextmanager
def generator(home: Path) -> Iterator[Generator]:
    """Run the load generator until the block is left."""
    home.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(home),
        cwd=home,
        text=True,
    )
    try:
        yield Generator(process, home / "generator.log")
    finally:
        process.kill()
        process.communicate()
