"""Prefill and decode on the emulated NPU behind the real endpoint, with the command lines that a deployment uses."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.emulated_npu.engine import environment
from tests.integration.engines import rig
from workshop.datasystem import Daemon, free_ports, running
from yrpd.serving import envoy, pairing
from yrpd.serving.command_lines import KvTransfer, VllmServe, endpoint, option_words, vllm_serve

#: Announces a load before it begins, and is otherwise the connector (tests/integration/engines/inside).
GATE = Path(rig.__file__).with_name("inside")
#: Breaks the connector when it is told to, and until then does nothing.
BREAKING = Path(__file__).with_name("breaking")
SCRIPTS = Path(__file__).parents[2] / "scripts"
BLOCK = 128
MAX_LEN = 2048
START_SECONDS = 600
# Device memory alone is forgotten: no test changes weights.
SETTINGS: dict[str, int | str] = {
    **rig.DEADLINES,
    "probe_interval_ms": 200,
    "save_mode": "sync-last",
    "reset_forgets": False,
}


@dataclass(frozen=True)
class Stack:
    """One prefill, one decode, and the endpoint in front of them.

    Attributes:
        prefill: P, for its counters.
        decode: D, for its counters and its gate.
        endpoint: Where clients ask.
    """

    prefill: rig.Engine
    decode: rig.Engine
    endpoint: rig.Engine


@contextmanager
def serving(
    home: Path,
    model: Path,
    options: dict[str, str],
    transfer: KvTransfer | None = None,
    *,
    gated: bool = False,
    for_decode: int = 0,
) -> Iterator[rig.Engine]:
    """Run ``vllm serve`` as an NPU host's container does; vllm-ascend and the connector come by their entry points.

    Args:
        home: Folder of its log and counters, and of a file ``break`` that names how its connector is to be broken.
        model: The model's folder.
        options: More options of ``vllm serve``.
        transfer: How it shares blocks; None is plain vllm-ascend.
        gated: Put the gate around the connector, which is then named by its module.
        for_decode: Port where a D asks for P.
    """
    (port,) = free_ports(1)
    (home / "metrics").mkdir(parents=True)
    common = {
        "enforce-eager": "",  # graph mode is not emulated
        "max-num-seqs": "8",
        "max-num-batched-tokens": str(MAX_LEN),
        "gpu-memory-utilization": "0.5",
        "disable-log-requests": "",
    }
    serve = VllmServe(
        str(model), rig.NAME, "127.0.0.1", port, "float32", MAX_LEN, BLOCK, 1, cpu=False,
        behind_endpoint=transfer is not None,
        options=option_words({name: value or True for name, value in {**common, **options}.items()}),
    )  # fmt: skip
    _, *arguments = vllm_serve(serve, transfer)
    variables = environment(
        PROMETHEUS_MULTIPROC_DIR=str(home / "metrics"),
        VLLM_SERVER_DEV_MODE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="1",
        VLLM_WORKER_MULTIPROC_METHOD="fork",  # vLLM's default, and half of a start's imports
    )
    if transfer is not None:
        variables[pairing.VARIABLE] = pairing.Settings(f"http://127.0.0.1:{for_decode}").as_text()
        variables["EMULATED_NPU_BREAK"] = str(home / "break")
        # The middleware of P and D is the image's own part of this project.
        variables["PYTHONPATH"] += f"{os.pathsep}{BREAKING}{os.pathsep}{SCRIPTS}"
    with ExitStack() as stack:
        gate = None
        if gated:
            gate = rig.Gate(home / "gate")
            stack.callback(gate.close)
            variables["YRPD_TEST_GATE"] = str(gate.path)
            variables["PYTHONPATH"] += f"{os.pathsep}{GATE}"
            where = arguments.index("--kv-transfer-config") + 1
            config = json.loads(arguments[where])
            config |= {"kv_connector": "GatedConnector", "kv_connector_module_path": "gate"}
            arguments[where] = json.dumps(config)
        daemon = Daemon(
            f"vLLM in {home.name}", f"127.0.0.1:{port}", [str(Path(sys.executable).with_name("vllm")), *arguments],
            home / "vllm.log", lambda: _healthy(port), variables, START_SECONDS,
        )  # fmt: skip
        stack.enter_context(running(daemon))
        yield rig.Engine(daemon, gate)


@contextmanager
def fronted(home: Path, prefill: rig.Engine, decode: rig.Engine, for_decode: int) -> Iterator[Stack]:
    """Run the endpoint in front of two engines.

    Args:
        home: Folder of its log and of its list of engines.
        prefill: P.
        decode: D.
        for_decode: Port where D asks for P.
    """
    port, metrics_port = free_ports(2)
    folder = home / "endpoint"
    folder.mkdir()
    for role, engine in ((envoy.PREFILL, prefill), (envoy.DECODE, decode)):
        members = envoy.members(role, [engine.url.removeprefix("http://")])
        (folder / envoy.members_file(role)).write_text(members, encoding="utf-8")
    settings = envoy.Settings("127.0.0.1", port, metrics_port, for_decode, folder=str(folder), live=str(folder))
    variables = {
        **os.environ,
        "PATH": f"{Path(os.environ['EMULATED_NPU_ENVOY']).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(SCRIPTS),
    }
    argv = [sys.executable, *endpoint(settings)[1:]]
    log = home / "endpoint.log"
    daemon = Daemon("the endpoint", f"127.0.0.1:{port}", argv, log, lambda: _healthy(port), variables)
    with running(daemon):
        yield Stack(prefill, decode, rig.Engine(daemon))


def _healthy(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
    except requests.RequestException:
        return False
