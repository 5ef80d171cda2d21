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

from workshop.bench.runs.profiles import LARGE, PAIR, SINGLE, Profile
from workshop.datasystem import free_ports
from yrpd.errors import EnvironmentFailure
from yrpd.serving import envoy, pairing
from yrpd.serving.command_lines import KvTransfer, VllmServe, endpoint, vllm_serve

#: Every engine's environment, beside the connector's settings below.
SETTINGS: tuple[tuple[str, str], ...] = (
    ("VLLM_PLUGINS", ""),
    ("VLLM_USE_V1", "1"),
    ("VLLM_CPU_KVCACHE_SPACE", "1"),
    ("TORCHDYNAMO_DISABLE", "1"),
    # The C library would give a step's large tensors back to the kernel and fault them in again in the next one, which
    # costs up to a quarter of a prefill and never the same. Now it keeps them.
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", str(16 << 30)),
)
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
    """What answers for an arm.

    Attributes:
        arm: Which arm it is.
        url: Base URL to ask.
        counted: Base URL of the vLLM that prefills, whose counters are read.
    """

    arm: str
    url: str
    counted: str

    def metrics(self) -> str:
        """Return the counters in Prometheus's text form."""
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"{self.counted}/metrics", timeout=60)
        answer.raise_for_status()
        return answer.text


def command_lines(
    profile: Profile, arm: str, model: Path, dtype: str, ports: Sequence[int], worker: str, tag: str
) -> list[tuple[str, ...]]:
    """Return an arm's engines; arms differ in their cache and their connector, in nothing else.

    Args:
        profile: Block size and cache sizes.
        arm: Which arm; all have one engine, ``pair`` has P and then D.
        model: The model's folder.
        dtype: Its type of number.
        ports: Where each engine listens.
        worker: ``host:port`` of the DataSystem worker.
        tag: Namespace of this run's blocks.
    """
    blocks = profile.large_blocks if arm == LARGE else profile.device_blocks
    room = -(-profile.longest // profile.block_size) * profile.block_size
    roles = {SINGLE: ("kv_both",), PAIR: ("kv_producer", "kv_consumer")}.get(arm, ("",))
    lines: list[tuple[str, ...]] = []
    for role, port in zip(roles, ports, strict=False):
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
            behind_endpoint=arm == PAIR,
            options=(
                *("--num-gpu-blocks-override", str(blocks)),
                *("--max-num-batched-tokens", str(profile.step_tokens)),
                "--disable-log-requests",
            ),
        )
        if role:
            # Two arms share a worker and get the same prompts: what one stored, the other must not find.
            lines.append(vllm_serve(serve, KvTransfer(role, worker, f"{tag}-{arm}", "vllm", True, _SETTINGS)))
        else:
            plain = [word for word in vllm_serve(serve, None) if word != "--no-enable-prefix-caching"]
            lines.append((*plain, "--enable-prefix-caching", "--enable-chunked-prefill"))
    return lines


def environment(home: Path) -> dict[str, str]:
    """Return what every engine and the load generator run with."""
    metrics = home / "metrics"
    metrics.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        **dict(SETTINGS),
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
    }


@dataclass(frozen=True)
class _Server:
    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def engines(
    profile: Profile,
    arms: Sequence[str],
    model: Path,
    dtype: str,
    home: Path,
    worker: str,
    tag: str,
    envoy_program: str,
) -> Iterator[Mapping[str, Engine]]:
    """Start all arms' engines at once and wait for all; only one arm is asked at a time.

    Args:
        profile: Block size and cache sizes.
        arms: Which arms.
        model: The model's folder.
        dtype: Its type of number.
        home: Folder of the logs.
        worker: ``host:port`` of the DataSystem worker.
        tag: Namespace of this run's blocks.
        envoy_program: ``envoy``, for the arm that needs it.

    Raises:
        EnvironmentFailure: One of them ended or did not get ready.
    """
    started: dict[str, list[_Server]] = {}
    with ExitStack() as stack:

        def start(name: str, port: int, argv: Sequence[str], variables: Mapping[str, str]) -> _Server:
            folder = home / name
            folder.mkdir(parents=True)
            log = folder / "server.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    argv, stdout=output, stderr=subprocess.STDOUT, env={**environment(folder), **variables}, cwd=folder
                )
            stack.callback(_end, process)
            return _Server(name, f"http://127.0.0.1:{port}", process, log)

        ports = free_ports(2 * len(arms) + 3)
        front, metrics, for_decode = ports[:3]
        paired = {pairing.VARIABLE: pairing.Settings(f"http://127.0.0.1:{for_decode}").as_text()}
        for arm in arms:
            mine = [ports.pop(), ports.pop()]
            lines = command_lines(profile, arm, model, dtype, mine, worker, tag)
            started[arm] = [
                start(f"{arm}-{place}", port, [sys.executable, "-m", "vllm.entrypoints.cli.main", *line[1:]], paired)
                for place, (port, line) in enumerate(zip(mine, lines, strict=False))
            ]
        for server in [server for servers in started.values() for server in servers]:
            _await(server)
        up = {arm: Engine(arm, servers[0].url, servers[0].url) for arm, servers in started.items()}
        if PAIR in started:
            prefill, decode = (server.url for server in started[PAIR])
            live = home / "members"
            live.mkdir()
            for role, url in ((envoy.PREFILL, prefill), (envoy.DECODE, decode)):
                text = envoy.members(role, [url.removeprefix("http://")])
                (live / envoy.members_file(role)).write_text(text, encoding="utf-8")
            settings = envoy.Settings("127.0.0.1", front, metrics, for_decode, folder=str(live), live=str(live))
            found = {"PATH": f"{Path(envoy_program).parent}:{os.environ['PATH']}"}
            server = start("endpoint", front, [sys.executable, *endpoint(settings)[1:]], found)
            _await(server)
            up[PAIR] = Engine(PAIR, server.url, prefill)
        yield up


def _await(server: _Server) -> None:
    pending = retry_if_result(lambda answer: not answer)
    try:
        Retrying(retry=pending, stop=stop_after_delay(_START_SECONDS), wait=wait_fixed(0.5))(
            lambda: server.process.poll() is not None or _healthy(server.url)
        )
    except RetryError:
        raise EnvironmentFailure(
            f"{server.name} did not get ready in {_START_SECONDS} s.", detail=_tail(server.log)
        ) from None
    if server.process.poll() is not None:
        raise EnvironmentFailure(f"{server.name} ended at start.", detail=_tail(server.log))


def _healthy(url: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(f"{url}/health", timeout=5).ok
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
