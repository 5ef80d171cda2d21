"""Real engines over real DataSystem workers, and the test's side of the gate (see ``inside/gate.py``)."""

from __future__ import annotations

import json
import os
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tests import served_coverage
from workshop.datasystem import Daemon, free_ports
from yrpd.deploying.status.counters import read_counters
from yrpd.deploying.verifying.answers import Answer, compare, scale
from yrpd.deploying.verifying.client import ask
from yrpd.deploying.verifying.questions import COMPLETIONS, Question
from yrpd.deploying.verifying.tolerance import Shape, logprob_tolerance, shape_of
from yrpd.project import Project

ROOT = Project.here().root
MODEL = ROOT / "build" / "models" / "qwen2_5_vl"
NAME = "model"
FULL = bool(os.environ.get("YRPD_TEST_FULL"))
BLOCK = 16
#: Little more than one prompt of the greatest length needs: many requests at once do not fit.
BLOCKS = 132
MAX_LEN = 2048
START_SECONDS = 600
#: Deadlines of the connector in these tests, in milliseconds.
DEADLINES = {
    "connect_timeout_ms": 2000,
    "lookup_timeout_ms": 3000,
    "request_timeout_ms": 3000,
    "load_timeout_ms": 20000,
    "sync_save_timeout_ms": 20000,
}
SETTINGS = {
    **DEADLINES,
    "probe_interval_ms": 200,
    "batch_bytes": 1 << 20,
    "save_mode": "sync-last",
    "save_output": True,
    "reset_forgets": False,  # no test changes weights, and `forget` is to leave the DataSystem's blocks
    "announce": False,  # the tiers' figures are to be of blocks alone
}
SCHEDULERS = {"vllm": "RecoveringScheduler", "ascend": "WholePromptAscendScheduler"}
CHECKSUMS = {"vllm": "sum64", "ascend": "crc32"}
Handler = Callable[[dict[str, Any]], None]


class Gate:
    """Listens to one engine's announcements; ``handler`` is called with each, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        gate = self
        self.path = path
        self.handler: Handler | None = None

        class Visitor(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                handler, message = gate.handler, json.loads(self.rfile.readline())
                if handler is not None:
                    handler(message)

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Visitor)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @contextmanager
    def watched(self, handler: Handler) -> Iterator[None]:
        """Have a handler for the time of a block."""
        self.handler = handler
        try:
            yield
        finally:
            self.handler = None

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Engine:
    """A ``vllm serve``.

    Attributes:
        daemon: Its process.
        gate: What it announces; None for plain vLLM.
    """

    daemon: Daemon
    gate: Gate | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.daemon.address}"

    def ask(self, question: Question, salt: str = "") -> Answer:
        """Ask one question."""
        return ask(self.url, NAME, question, salt)

    def ask_all(self, questions: list[Question], salt: str = "") -> list[Answer]:
        """Ask all at once."""
        with ThreadPoolExecutor(len(questions)) as pool:
            return list(pool.map(lambda question: self.ask(question, salt), questions))

    def forget(self) -> None:
        """Empty the engine's own prefix cache, so that the next hit is the DataSystem's."""
        requests.post(f"{self.url}/reset_prefix_cache", timeout=60).raise_for_status()

    def metrics(self) -> str:
        """Return what ``/metrics`` shows."""
        answer = requests.get(f"{self.url}/metrics", timeout=60)
        answer.raise_for_status()
        return answer.text

    def counters(self) -> dict[str, float]:
        """Return the connector's counters."""
        return read_counters(self.metrics())

    def failures(self) -> dict[str, float]:
        """Return the loads that failed, by cause."""
        found = re.findall(r'^yuanrong_load_failures_total\{cause="(\w+)"\} (\S+)', self.metrics(), re.MULTILINE)
        return {cause: float(count) for cause, count in found}

    def value(self, name: str, **labels: str) -> float:
        """Return a metric, summed over all samples that carry the labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.metrics().splitlines()
            if line.startswith((f"{name}{{", f"{name} ")) and all(each in line for each in wanted)
        )


@dataclass
class Reference:
    """Plain vLLM: each question is asked once."""

    engine: Engine
    shape: Shape = field(default_factory=lambda: shape_of(json.loads((MODEL / "config.json").read_text("utf-8"))))
    _known: dict[str, Answer] = field(default_factory=dict)

    def prepare(self, questions: list[Question]) -> None:
        """Ask several at once."""
        missing = [question for question in questions if question.name not in self._known]
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(self.engine.ask, missing)
        self._known |= {question.name: answer for question, answer in zip(missing, answers, strict=True)}

    def check(self, question: Question, answer: Answer) -> None:
        """Fail unless an answer is plain vLLM's, up to rounding."""
        self.prepare([question])
        right = self._known[question.name]
        allowed = logprob_tolerance(self.shape, "float32", MAX_LEN, scale(right))
        found = compare(answer, right, allowed, ties=False)
        assert found.equal, f"{question.name}: {found.problem}"


def prompt(name: str, tokens: int, answer: int = 8) -> Question:
    """Return a question of exactly so many tokens, another one for every name."""
    import random

    dice = random.Random(name)
    body = {
        "prompt": [dice.randrange(20, 700) for _ in range(tokens)],
        "max_tokens": answer,
        "temperature": 0,
        "logprobs": 5,
        "return_tokens_as_token_ids": True,
        "ignore_eos": True,
    }
    return Question(f"{name}, {tokens} tokens", COMPLETIONS, body)


@contextmanager
def serving(
    home: Path, cores: str, scheduler: str = "", worker_address: str = "", worker_log: Path | None = None
) -> Iterator[Engine]:
    """Run a ``vllm serve`` of the image model; without a scheduler plain vLLM.

    Args:
        home: Folder of its log and counters.
        cores: CPU cores that it computes on.
        scheduler: A key of :data:`SCHEDULERS`.
        worker_address: DataSystem worker that it attaches to.
        worker_log: That worker's figures.
    """
    (port,) = free_ports(1)
    counters = home / "metrics"
    counters.mkdir()
    argv = [
        str(Path(sys.executable).with_name("vllm")), "serve", str(MODEL), "--served-model-name", NAME,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", str(MAX_LEN),
        "--block-size", str(BLOCK), "--enforce-eager", "--enable-chunked-prefill", "--max-num-seqs", "64",
        "--max-num-batched-tokens", str(MAX_LEN), "--limit-mm-per-prompt", json.dumps({"image": 3}),
        "--disable-log-requests",
    ]  # fmt: skip
    environment = {
        # Not the root: some wheel brings a package `tests`.
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("inside")), *served_coverage.paths()]),
        "PROMETHEUS_MULTIPROC_DIR": str(counters),
        "VLLM_PLUGINS": "",
        "VLLM_USE_V1": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    with ExitStack() as stack:
        gate = None
        if scheduler:
            gate = Gate(home / "gate")
            stack.callback(gate.close)
            environment["YRPD_TEST_GATE"] = str(gate.path)
            transfer = {
                "kv_connector": "GatedConnector",
                "kv_connector_module_path": "gate",
                "kv_role": "kv_both",
                "kv_connector_extra_config": {
                    "worker_address": worker_address,
                    "worker_resource_log": str(worker_log or ""),
                    "checksum": CHECKSUMS[scheduler],
                    **SETTINGS,
                },
            }
            argv += ["--enable-prefix-caching", "--num-gpu-blocks-override", str(BLOCKS),
                     "--scheduler-cls", f"gate.{SCHEDULERS[scheduler]}",
                     "--kv-transfer-config", json.dumps(transfer)]  # fmt: skip
        else:
            argv.append("--no-enable-prefix-caching")
        address = f"127.0.0.1:{port}"
        daemon = Daemon(
            f"vLLM ({scheduler or 'plain'})", address, argv, home / "vllm.log", lambda: _healthy(address),
            environment, START_SECONDS,
        )  # fmt: skip
        stack.callback(daemon.stop)
        daemon.start()
        yield Engine(daemon, gate)


def _healthy(address: str) -> bool:
    try:
        return requests.get(f"http://{address}/health", timeout=5).ok
    except requests.RequestException:
        return False


def eventually(check: Callable[[], None], seconds: float = 120) -> None:
    """Wait until a check does not fail any more."""
    Retrying(
        retry=retry_if_exception_type(AssertionError),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(0.1),
        reraise=True,
    )(check)


def wait_until_idle(engine: Engine) -> None:
    """Every KV block is free and no request is left; a block that leaked would stay in use."""
    # The engine reports when it steps, so something short is asked each time.
    tick = prompt("tick", 1, answer=1)

    def idle() -> None:
        engine.ask(tick)
        # vLLM 0.10.0 counts the null block, which belongs to nobody, as used.
        allowed = {"vllm:kv_cache_usage_perc": 1.001 / BLOCKS}
        for name in ("vllm:kv_cache_usage_perc", "vllm:num_requests_running", "vllm:num_requests_waiting"):
            assert engine.value(name) <= allowed.get(name, 0), name

    eventually(idle)
