"""The engines of a benchmark: vLLM servers of this machine, on free ports, gone with their block."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from yrpd.bench.runs.profiles import LARGE, SINGLE, Profile
from yrpd.datasystem import free_ports
from yrpd.errors import EnvironmentFailure
from yrpd.serving.command_lines import KvTransfer, VllmServe, vllm_serve

_START_SECONDS = 600
_STOP_SECONDS = 30
#: More patience than the defaults: every engine, the load generator and the DataSystem share this machine's cores.
_SETTINGS: tuple[tuple[str, int | str], ...] = (
    ("request_timeout_ms", 10000),
    ("lookup_timeout_ms", 5000),
    ("load_timeout_ms", 30000),
    ("breaker_failures", 3),
)


@dataclass(frozen=True)
class Engine:
    """A server that answers.

    Attributes:
        arm: Which arm it is.
        url: Its base URL.
    """

    arm: str
    url: str

    def metrics(self) -> str:
        """Return its counters in Prometheus's text form."""
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"{self.url}/metrics", timeout=60)
        answer.raise_for_status()
        return answer.text


def command_line(
    profile: Profile, arm: str, model: Path, dtype: str, port: int, worker: str, tag: str
) -> tuple[str, ...]:
    """Return the command line of an arm's engine; arms differ in their cache and their connector, in nothing else.

    Args:
        profile: Block size and cache sizes.
        arm: Which arm.
        model: The model's folder.
        dtype: Its type of number.
        port: Where to listen.
        worker: ``host:port`` of the DataSystem worker.
        tag: Namespace of this run's blocks.
    """
    blocks = profile.large_blocks if arm == LARGE else profile.device_blocks
    room = -(-profile.longest // profile.block_size) * profile.block_size
    serve = VllmServe(
        model=str(model),
        served_name="bench",
        address="127.0.0.1",
        port=port,
        dtype=dtype,
        max_model_len=room,
        block_size=profile.block_size,
        tensor_parallel=1,
        cpu=True,
        options=(
            ("num-gpu-blocks-override", str(blocks)),
            ("max-num-batched-tokens", str(max(room, 2048))),
            ("disable-log-requests", ""),
        ),
    )
    if arm == SINGLE:
        return vllm_serve(serve, KvTransfer("kv_both", worker, tag, "vllm", True, _SETTINGS))
    plain = [word for word in vllm_serve(serve, None) if word != "--no-enable-prefix-caching"]
    return (*plain, "--enable-prefix-caching", "--enable-chunked-prefill")


def environment(home: Path) -> dict[str, str]:
    """Return what every engine and the load generator run with."""
    metrics = home / "metrics"
    metrics.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "VLLM_PLUGINS": "",
        "VLLM_USE_V1": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
    }


@contextmanager
def engines(
    profile: Profile, arms: Sequence[str], model: Path, dtype: str, home: Path, worker: str, tag: str
) -> Iterator[Mapping[str, Engine]]:
    """Start all arms' engines at once and wait for all; only one of them is asked at a time.

    Raises:
        EnvironmentFailure: One of them ended or did not get ready.
    """
    started: dict[str, tuple[Engine, subprocess.Popen[bytes], Path]] = {}
    with ExitStack() as stack:
        for arm, port in zip(arms, free_ports(len(arms)), strict=True):
            folder = home / arm
            folder.mkdir(parents=True)
            argv = [sys.executable, "-m", "vllm.entrypoints.cli.main"]
            argv += command_line(profile, arm, model, dtype, port, worker, tag)[1:]
            log = folder / "vllm.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    argv, stdout=output, stderr=subprocess.STDOUT, env=environment(folder), cwd=folder
                )
            stack.callback(_end, process)
            started[arm] = (Engine(arm, f"http://127.0.0.1:{port}"), process, log)
        for arm, (engine, process, log) in started.items():
            _await(arm, engine, process, log)
        yield {arm: engine for arm, (engine, _, _) in started.items()}


def _await(arm: str, engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    pending = retry_if_result(lambda answer: not answer)
    try:
        Retrying(retry=pending, stop=stop_after_delay(_START_SECONDS), wait=wait_fixed(0.5))(
            lambda: process.poll() is not None or _healthy(engine)
        )
    except RetryError:
        raise EnvironmentFailure(
            f"The {arm} engine did not get ready in {_START_SECONDS} s.", detail=_tail(log)
        ) from None
    if process.poll() is not None:
        raise EnvironmentFailure(f"The {arm} engine ended at start.", detail=_tail(log))


def _healthy(engine: Engine) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(f"{engine.url}/health", timeout=5).ok
    except requests.RequestException:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
