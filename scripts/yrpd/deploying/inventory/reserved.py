"""Which options, flags and environment variables an inventory may set, and why not the others."""

from __future__ import annotations

from typing import Any

RESERVED_OPTIONS: dict[str, str] = {
    "model": "it is [model] path",
    "host": "it is the host's address",
    "port": "it is the instance's port",
    "served-model-name": "it is [model] served_name",
    "dtype": "it is [model] dtype",
    "max-model-len": "it is [model] max_model_len",
    "block-size": "it is [model] block_size",
    "tensor-parallel-size": "it is the instance's tensor_parallel",
    "pipeline-parallel-size": "the connector stores one object per block and tensor-parallel rank",
    "decode-context-parallel-size": "the connector stores one object per block and tensor-parallel rank",
    "data-parallel-size": "it is the instance's data_parallel",
    "data-parallel-size-local": "an instance lives on one host; list more instances for more hosts",
    "data-parallel-address": "an instance lives on one host; list more instances for more hosts",
    "data-parallel-rpc-port": "an instance lives on one host; list more instances for more hosts",
    "data-parallel-start-rank": "an instance lives on one host; list more instances for more hosts",
    "data-parallel-backend": "an instance lives on one host; list more instances for more hosts",
    "enable-expert-parallel": "it is the instance's expert_parallel",
    "distributed-executor-backend": "it follows from the flavour; ray would start processes on other hosts",
    "api-server-count": "the connector's counters are read from one API server per instance",
    "kv-transfer-config": "the connector is configured by the deployment, equal on P and D",
    "scheduler-cls": "it is the inventory's scheduler, with recovery from failed loads",
    "async-scheduling": "the connector cannot load with it",
    "calculate-kv-scales": "scales that follow from an engine's first request would be wrong for another engine",
    "speculative-config": "vLLM counts look-ahead slots of an asynchronous load as computed",
    "num-lookahead-slots": "vLLM counts look-ahead slots of an asynchronous load as computed",
    "enable-prefix-caching": "it is always on: without it images carry no hash, and nothing of them could be shared",
    "enable-chunked-prefill": "it is always on: the CPU backend ignores a cached prefix without it",
    "api-key": "a secret on a command line is visible to every user of the host; it is [secrets] vllm_api_key",
    "hf-token": "a secret on a command line is visible to every user of the host, and nothing is fetched",
    "download-dir": "nothing is fetched; the model is [model] path",
    "tokenizer": "P and D read the model's own; another one would give other tokens for the same KV key",
    "trust-request-chat-template": "a client could make P and D see different prompts",
    "ssl-keyfile": "the endpoint speaks plain HTTP to P and D",
    "ssl-certfile": "the endpoint speaks plain HTTP to P and D",
    "headless": "P and D must answer HTTP",
    "uds": "P and D must answer HTTP on their port",
    "root-path": "the endpoint asks for /v1 at the root",
    "exclude-tools-when-tool-choice-none": "P is told so of every request, and would see another prompt than D",
    "config": "one inventory says everything; a second file would not be in the plan",
}

RESERVED_ENVIRONMENT: dict[str, str] = {
    "VLLM_PLUGINS": "it follows from the flavour",
    "VLLM_USE_V1": "the connector is one of the V1 engine",
    "PROMETHEUS_MULTIPROC_DIR": "it is where the connector's counters are collected",
    "VLLM_HOST_IP": "it is the host's address",
    "VLLM_CPU_KVCACHE_SPACE": "it is [containers] kvcache_gib",
    "VLLM_CPU_OMP_THREADS_BIND": "it is the instance's cores",
    "ASCEND_RT_VISIBLE_DEVICES": "it follows from the host's devices",
    "VLLM_API_KEY": "it is [secrets] vllm_api_key; docker inspect shows environments to everyone",
    "OPENAI_API_KEY": "it is [secrets] vllm_api_key; docker inspect shows environments to everyone",
    "YRPD_PAIRING": "it is [endpoint]",
    "VLLM_WORKER_MULTIPROC_METHOD": "it follows from the flavour",
    "HCCL_IF_IP": "it is the host's address",
    "DS_WORKER_ADDR": "it is the worker of the same host",
    "USING_PREFIX_CONNECTOR": "the connector is configured by the deployment, equal on P and D",
    "HCL_OP_EXPANSION_MODE": "a letter is missing and nothing reads it; HCCL_OP_EXPANSION_MODE=AIV is set",
    "vLLM_MODEL_MEMORY_USE_GB": "nothing reads it; the option is gpu-memory-utilization",
    "YUANRONG_DS_CLIENT_PUBLIC_KEY_FILE": "it is [datasystem.encryption]",
    "YUANRONG_DS_CLIENT_PRIVATE_KEY_FILE": "it is [datasystem.encryption]",
    "YUANRONG_DS_SERVER_PUBLIC_KEY_FILE": "it is [datasystem.encryption]",
}

RESERVED_WORKER_FLAGS: dict[str, str] = {
    "worker_address": "it is the host's address and [datasystem] port",
    "etcd_address": "it is [etcd]",
    "metastore_address": "the directory is etcd",
    "start_metastore_service": "the directory is etcd",
    "shared_memory_size_mb": "it is [datasystem] memory_mb",
    "spill_directory": "it is [datasystem.spill] directory",
    "spill_size_limit": "it is [datasystem.spill] size_mb",
    "enable_curve_zmq": "it is [datasystem.encryption]",
    "curve_key_dir": "it is [datasystem.encryption] key_folder",
    "unix_domain_socket_dir": "it is the folder that the worker shares with P and D",
    "ready_check_path": "readiness is asked there",
    "health_check_path": "readiness is asked there",
    "ipc_through_shared_memory": "without it every block would be copied twice",
    "enable_etcd_auth": "it is [etcd.tls]",
    "etcd_ca": "it is [etcd.tls] ca",
    "etcd_cert": "it is [etcd.tls] client_certificate",
    "etcd_key": "it is [etcd.tls] client_key",
    "log_dir": "it is a folder of the container",
    "rocksdb_store_dir": "it is a folder of the container",
    "skip_authenticate": "a worker that asks for keys and does not check them protects nothing",
}
SECRET_WORKER_FLAGS = ("password", "secret", "access_key", "data_key", "passphrase", "token")


#: What of ``additional-config`` follows from the inventory, as vllm-ascend reads it.
SCHEDULER_SETTINGS = ("enabled", "scheduler_cls")


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with dashes in their names, and switches without ``no-``.

    Raises:
        ValueError: One is reserved, badly named, or has a value that a command line cannot carry.
    """
    positive: dict[str, Any] = {}
    for written, value in options.items():
        name = written
        if written.startswith(("no-", "no_")):
            if not isinstance(value, bool):
                raise ValueError(f"{written!r} is a switch; it is true or false")
            name, value = written[len("no-") :], not value
        if name in positive:
            raise ValueError(f"{written!r} is set twice")
        positive[name] = value
    checked = _dashed(positive)
    for name, value in checked.items():
        # vLLM's parser takes the beginning of a name for all of it.
        if meant := next((known for known in RESERVED_OPTIONS if known.startswith(name)), ""):
            raise ValueError(f"{name!r} is the beginning of {meant!r}, which is reserved: {RESERVED_OPTIONS[meant]}")
        if not isinstance(value, str | int | float | bool | dict | list) or value == []:
            raise ValueError(f"{name!r} has a value that a command line cannot carry: {value!r}")
    additional = checked.get("additional-config", {})
    scheduler = additional.get("ascend_scheduler_config", {}) if isinstance(additional, dict) else None
    if not isinstance(scheduler, dict):
        raise ValueError("'additional-config' and its 'ascend_scheduler_config' are tables")
    if taken := [name for name in SCHEDULER_SETTINGS if name in scheduler]:
        raise ValueError(f"{taken[0]!r} of 'ascend_scheduler_config' is reserved: it is the inventory's scheduler")
    return checked


def _dashed(options: dict[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for written, value in options.items():
        name = written.replace("_", "-")
        if not name or name.startswith("-") or not all(part.isalnum() for part in name.split("-")):
            raise ValueError(f"{written!r} is not an option name; write it without leading dashes")
        if name in RESERVED_OPTIONS:
            raise ValueError(f"{written!r} is reserved: {RESERVED_OPTIONS[name]}")
        if name in checked:
            raise ValueError(f"{written!r} is set twice")
        checked[name] = value
    return checked


def check_worker_flags(flags: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Return flags of the DataSystem worker unchanged.

    Raises:
        ValueError: One is reserved, badly named, or carries a secret.
    """
    for name in flags:
        if not name.isidentifier() or name != name.lower():
            raise ValueError(f"{name!r} is not a flag of the worker; write it with underscores, without dashes")
        if name in RESERVED_WORKER_FLAGS:
            raise ValueError(f"{name!r} is reserved: {RESERVED_WORKER_FLAGS[name]}")
        if any(word in name for word in SECRET_WORKER_FLAGS):
            raise ValueError(f"{name!r} carries a secret; a command line is visible to every user of the host")
    return flags


def check_environment(environment: dict[str, str], *, secrets: bool = False) -> dict[str, str]:
    """Return the environment unchanged.

    Args:
        environment: Variables.
        secrets: Their values come from files, so they may be secrets.

    Raises:
        ValueError: A variable is reserved, badly named, or looks like a secret.
    """
    for name in environment:
        if not name.isidentifier():
            raise ValueError(f"{name!r} is not the name of an environment variable")
        if name in RESERVED_ENVIRONMENT:
            raise ValueError(f"{name!r} is reserved: {RESERVED_ENVIRONMENT[name]}")
        shouted = name.upper()
        secret = shouted.endswith("TOKEN") or any(word in shouted for word in ("PASSWORD", "SECRET", "API_KEY"))
        if secret and not secrets:
            raise ValueError(
                f"{name!r} looks like a secret, and docker inspect shows environments to everyone; "
                "name a file of it under [secrets] environment"
            )
    return environment
