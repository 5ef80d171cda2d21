"""Which vLLM options and environment variables an inventory may set, and why not the others."""

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
    "data-parallel-size": "list more instances instead, the router spreads requests over them",
    "api-server-count": "the connector's counters are read from one API server per instance",
    "kv-transfer-config": "the connector is configured by the deployment, equal on P and D",
    "scheduler-cls": "it is the inventory's scheduler, with recovery from failed loads",
    "speculative-config": "vLLM 0.10.0 counts look-ahead slots of an asynchronous load as computed",
    "num-lookahead-slots": "vLLM 0.10.0 counts look-ahead slots of an asynchronous load as computed",
    "no-enable-prefix-caching": "without it images carry no hash, and nothing of them could be shared",
    "enable-prefix-caching": "it is always on",
    "no-enable-chunked-prefill": "the CPU backend ignores a cached prefix without chunked prefill",
    "enable-chunked-prefill": "it is always on",
    "api-key": "a secret on a command line is visible to every user of the host",
    "ssl-keyfile": "the router speaks plain HTTP to P and D",
    "ssl-certfile": "the router speaks plain HTTP to P and D",
    "headless": "P and D must answer HTTP",
    "uds": "P and D must answer HTTP on their port",
    "root-path": "the router asks for /v1 at the root",
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
    "VLLM_API_KEY": "the router could not speak to P and D, and docker inspect shows environments to everyone",
}


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with dashes in their names.

    Raises:
        ValueError: One is reserved, badly named, or has a value that a command line cannot carry.
    """
    checked: dict[str, Any] = {}
    for written, value in options.items():
        name = written.replace("_", "-")
        if not name or name.startswith("-") or not all(part.isalnum() for part in name.split("-")):
            raise ValueError(f"{written!r} is not an option name; write it without leading dashes")
        if name in RESERVED_OPTIONS:
            raise ValueError(f"{written!r} is reserved: {RESERVED_OPTIONS[name]}")
        if name in checked:
            raise ValueError(f"{written!r} is set twice")
        if not isinstance(value, str | int | float | bool | dict | list):
            raise ValueError(f"{written!r} has a value that a command line cannot carry: {value!r}")
        checked[name] = value
    return checked


def check_environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment unchanged.

    Raises:
        ValueError: A variable is reserved, badly named, or looks like a secret.
    """
    for name in environment:
        if not name.isidentifier():
            raise ValueError(f"{name!r} is not the name of an environment variable")
        if name in RESERVED_ENVIRONMENT:
            raise ValueError(f"{name!r} is reserved: {RESERVED_ENVIRONMENT[name]}")
        if any(word in name.upper() for word in ("PASSWORD", "SECRET", "API_KEY")):
            raise ValueError(f"{name!r} looks like a secret; docker inspect shows environments to everyone")
    return environment
