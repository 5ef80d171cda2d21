"""Command lines of everything that runs in a container, as data. Pure: nothing here starts a process.

Nothing outside this folder is imported, because the image carries this folder alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yrpd.serving import cluster
from yrpd.serving.envoy import Settings

# Not the Debian package's folder: that belongs to the user etcd, and root without capabilities may not enter it.
# Where any user may make a folder.
ETCD_DATA = "/tmp/yuanrong-etcd"  # noqa: S108
WORKER_HOME = "/var/lib/yuanrong"
WORKER_READY = f"{WORKER_HOME}/datasystem/probe/ready"
SOCKETS = "/run/yuanrong/uds"  # under 80 characters, the worker's limit; the same path in worker and vLLM
WORKER_LOGS = f"{SOCKETS}/log"  # where P and D see it, too: the worker's figures of its tiers are in resource.log
METRICS = "/run/yuanrong/metrics"
DRAINING = f"{METRICS}/draining"  # see yrpd.serving.draining
SPILL = "/var/lib/yuanrong-spill"
SECRETS = "/run/secrets"
MEBI = 1 << 20
# Of vLLM's options, those that take a list as JSON, and those that are given once for each value; all others with
# several values take them as words. tests/integration/connector/test_command_lines.py holds this against vLLM's parser.
JSON_LISTS = ("allowed-headers", "allowed-methods", "allowed-origins")
REPEATED = ("middleware",)

CONNECTOR = "YuanRongConnector"
CONNECTOR_MODULE = "vllm_ascend.distributed.yuanrong"
RECOVERING_SCHEDULERS: Mapping[str, str] = {
    "vllm": "vllm_ascend.distributed.yuanrong.recovery.RecoveringScheduler",
    "ascend": "vllm_ascend.distributed.yuanrong.recovery.RecoveringAscendScheduler",
}


@dataclass(frozen=True)
class VllmServe:
    """What a ``vllm serve`` is told.

    Attributes:
        model: Model folder inside the container.
        served_name: Name in requests.
        address: Where it listens.
        port: Its port there.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        max_model_len: Prompt and answer, tokens.
        block_size: Tokens of a KV block.
        tensor_parallel: NPUs of one replica of the weights.
        data_parallel: Replicas behind the one port.
        expert_parallel: Spread experts over all NPUs.
        cpu: The CPU backend, which runs without graph capture.
        behind_endpoint: Whether the endpoint chooses it: its middleware is then ours, too (see ``yrpd.serving``).
        options: More options, as words.
    """

    model: str
    served_name: str
    address: str
    port: int
    dtype: str
    max_model_len: int
    block_size: int
    tensor_parallel: int
    cpu: bool
    data_parallel: int = 1
    expert_parallel: bool = False
    behind_endpoint: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class KvTransfer:
    """How a vLLM takes part in sharing KV blocks.

    Attributes:
        role: ``kv_producer``, ``kv_consumer`` or ``kv_both``.
        worker_address: ``host:port`` of the DataSystem worker on its own host.
        tag: Part of every key: engines share blocks only within one tag. Empty: only what computed a block tells.
        scheduler: A key of :data:`RECOVERING_SCHEDULERS`.
        by_module: Name the connector's module, because no vLLM plugin registers it (CPU backend).
        settings: More settings of the connector.
    """

    role: str
    worker_address: str
    tag: str
    scheduler: str
    by_module: bool
    settings: tuple[tuple[str, int | str], ...] = ()


@dataclass(frozen=True)
class Certificates:
    """Files inside a container: who signed the other side's certificate, our own, and its private key."""

    ca: str
    certificate: str
    key: str


def etcd(
    name: str, address: str, port: int, peer_port: int, certificates: Certificates | None = None, metrics_port: int = 0
) -> tuple[str, ...]:
    """Return etcd's command line: one member, listening on one address only.

    Args:
        name: The member's name.
        address: Where it listens.
        port: Client port.
        peer_port: Peer port.
        certificates: Its own; clients and peers without one of the same authority are then refused.
        metrics_port: Then health and metrics are answered here, without a certificate.
    """
    scheme = "https" if certificates else "http"
    client, peer = f"{scheme}://{address}:{port}", f"{scheme}://{address}:{peer_port}"
    line: tuple[str, ...] = (
        "etcd",
        "--name", name,
        "--data-dir", ETCD_DATA,
        "--listen-client-urls", client,
        "--advertise-client-urls", client,
        "--listen-peer-urls", peer,
        "--initial-advertise-peer-urls", peer,
        "--initial-cluster", f"{name}={peer}",
    )  # fmt: skip
    if certificates is None:
        return line
    line += ("--listen-metrics-urls", f"http://{address}:{metrics_port}")
    for prefix in ("", "peer-"):
        line += (
            f"--{prefix}client-cert-auth",
            f"--{prefix}trusted-ca-file", certificates.ca,
            f"--{prefix}cert-file", certificates.certificate,
            f"--{prefix}key-file", certificates.key,
        )  # fmt: skip
    return line


def datasystem_worker(
    address: str, etcd_address: str, memory_mb: int, flags: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return the command line of a DataSystem worker in the foreground (see :mod:`yrpd.serving.worker`).

    Args:
        address: ``host:port`` to listen on.
        etcd_address: ``host:port`` of etcd.
        memory_mb: Its memory pool.
        flags: More flags of the worker.
    """
    line: tuple[str, ...] = (
        "python3", "-m", "yrpd.serving.worker",
        "--home", WORKER_HOME,
        "--sockets", SOCKETS,
        "--worker-address", address,
        "--etcd-address", etcd_address,
        "--memory-mb", str(memory_mb),
    )  # fmt: skip
    for name, value in sorted((flags or {}).items()):
        line += ("--flag", f"{name}={value}")
    return line


def openyuanrong(settings: cluster.Settings) -> tuple[str, ...]:
    """Return the command line of a host's part of a cluster by ``yr start`` (see :mod:`yrpd.serving.cluster`)."""
    return ("python3", "-m", "yrpd.serving.cluster", settings.as_text())


def spill_flags(size_mb: int) -> dict[str, str]:
    """Return the worker's flags for spilling to :data:`SPILL`; the worker counts its limit in bytes."""
    return {"spill_directory": SPILL, "spill_size_limit": str(size_mb * MEBI)}


def with_secrets(files: Mapping[str, str], argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command line that gets variables out of files (see :mod:`yrpd.serving.secrets`).

    Args:
        files: Variable to file inside the container; none leaves the command line as it is.
        argv: The command line.
    """
    if not files:
        return argv
    assignments = (f"{name}={file}" for name, file in sorted(files.items()))
    return ("python3", "-m", "yrpd.serving.secrets", *assignments, "--", *argv)


def vllm_serve(serve: VllmServe, transfer: KvTransfer | None) -> tuple[str, ...]:
    """Return vLLM's command line.

    Args:
        serve: What it serves.
        transfer: How it shares blocks; ``None`` is plain vLLM with no cache at all, the reference of verification.
    """
    line = [
        "vllm", "serve", serve.model,
        "--served-model-name", serve.served_name,
        "--host", serve.address,
        "--port", str(serve.port),
        "--dtype", serve.dtype,
        "--max-model-len", str(serve.max_model_len),
        "--block-size", str(serve.block_size),
        "--tensor-parallel-size", str(serve.tensor_parallel),
    ]  # fmt: skip
    if serve.data_parallel > 1:
        line += ["--data-parallel-size", str(serve.data_parallel)]
    if serve.expert_parallel:
        line.append("--enable-expert-parallel")
    if serve.cpu:
        line.append("--enforce-eager")
    if transfer is None:
        line.append("--no-enable-prefix-caching")
    else:
        line += ["--enable-prefix-caching", "--enable-chunked-prefill"]
        line += ["--scheduler-cls", RECOVERING_SCHEDULERS[transfer.scheduler]]
        line += ["--kv-transfer-config", json.dumps(_kv_transfer_config(transfer), separators=(",", ":"))]
    if serve.behind_endpoint:
        for middleware in _middleware(transfer):
            line += ["--middleware", f"yrpd.serving.{middleware}"]
    return (*line, *serve.options)


def _middleware(transfer: KvTransfer | None) -> tuple[str, ...]:
    """Return ours, the innermost first: what is being drained has a request until both P and D are done with it."""
    paired = transfer is not None and transfer.role == "kv_consumer"
    return (*(("pairing.Pairing",) if paired else ()), "pairing.RequestIds", "draining.Draining")


def _kv_transfer_config(transfer: KvTransfer) -> dict[str, Any]:
    config: dict[str, Any] = {"kv_connector": CONNECTOR, "kv_role": transfer.role}
    if transfer.by_module:
        config["kv_connector_module_path"] = CONNECTOR_MODULE
    tag = {"tag": transfer.tag} if transfer.tag else {}
    config["kv_connector_extra_config"] = {"worker_address": transfer.worker_address, **tag, **dict(transfer.settings)}
    return config


def option_words(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return options as vLLM's parser reads them: ``False`` is ``--no-NAME``, a table is JSON, a list several words."""
    words: list[str] = []
    for name, value in sorted(options.items()):
        several = isinstance(value, list) and name not in JSON_LISTS
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif several and name in REPEATED:
            for each in value:
                words += [f"--{name}", as_word(each)]
        else:
            words += [f"--{name}", *map(as_word, value if several else [value])]
    return tuple(words)


def as_word(value: object) -> str:
    """Return a value as one word of a command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), sort_keys=True)


def endpoint(settings: Settings) -> tuple[str, ...]:
    """Return the endpoint's command line (see :mod:`yrpd.serving.envoy`)."""
    return ("python3", "-m", "yrpd.serving.envoy", settings.as_text())
