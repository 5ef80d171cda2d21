# SPDX-License-Identifier: Apache-2.0
"""Transports: how blocks travel between device memory and the DataSystem, and how to connect one."""

from __future__ import annotations

import os
import socket
from typing import Any

from ..config import ConnectorConfig
from ..layout import KVLayout, LayoutError
from .affinity import unbound
from .base import Guard, Presence, Transfer, Transport

#: How the client copies from and to a device; it reads them when its library is loaded or used first.
COPY_POLICIES = ("DS_D2H_MEMCPY_POLICY", "DS_H2D_MEMCPY_POLICY")

__all__ = ["Guard", "Presence", "Transfer", "Transport", "connect", "reachable", "resolve_kind"]


def resolve_kind(config: ConnectorConfig, device_type: str) -> str:
    """Return ``host`` or ``npu``.

    Args:
        config: Settings; ``transport`` other than ``auto`` must fit the device.
        device_type: Where the KV cache is: ``cpu`` or ``npu``.

    Raises:
        LayoutError: No transport can reach that memory.
    """
    fitting = {"cpu": "host", "npu": "npu"}.get(device_type)
    if fitting is None:
        raise LayoutError(f"no transport reaches KV caches on {device_type!r}; supported are cpu and npu")
    if config.transport not in ("auto", fitting):
        raise LayoutError(f"transport {config.transport!r} cannot reach KV caches on {device_type!r}; use {fitting!r}")
    return fitting


def connect(config: ConnectorConfig, kind: str, layout: KVLayout | None, timeout_ms: int) -> Transport:
    """Connect to the DataSystem worker, with a client whose threads are not bound to the caller's cores.

    Args:
        config: Settings.
        kind: ``host`` or ``npu``.
        layout: Where blocks are, or None for a connection that only asks ``exist``.
        timeout_ms: Deadline of each later request. Connecting has its own, ``connect_timeout_ms``.

    Raises:
        Exception: Whatever the client raises when it is not installed or the worker cannot be reached.
    """
    return unbound(lambda: _connect(config, kind, layout, timeout_ms))


def _connect(config: ConnectorConfig, kind: str, layout: KVLayout | None, timeout_ms: int) -> Transport:
    if kind == "npu":
        # The client's default, FFTS, drops what CANN says of a copy: a block whose copy failed is published as good.
        for name in COPY_POLICIES:
            os.environ.setdefault(name, "direct")
    from yr.datasystem.kv_client import KVClient, SetParam
    from yr.datasystem.object_client import WriteMode

    # By keyword, and no experimental argument: the set of arguments differs between DataSystem releases.
    arguments: dict[str, Any] = {
        "host": config.worker_address.host,
        "port": config.worker_address.port,
        "connect_timeout_ms": config.connect_timeout_ms,
        "req_timeout_ms": timeout_ms,
        **config.credentials.as_kwargs(),
    }
    if kind == "npu":
        from yr.datasystem.hetero_client import Blob, DeviceBlobList, HeteroClient

        from .npu import NpuTransport

        device = None
        if layout is not None:
            import torch_npu

            device = torch_npu.npu
            device.set_device(layout.device_index)  # a thread starts on device 0
        param = SetParam()
        param.write_mode = WriteMode.NONE_L2_CACHE_EVICT
        param.ttl_second = config.ttl_seconds
        client = HeteroClient(**arguments)
        client.init()
        return NpuTransport(client, config, layout, (Blob, DeviceBlobList, param), device)

    from .host import HostTransport

    client = KVClient(**arguments)
    client.init()
    return HostTransport(client, config, layout, WriteMode.NONE_L2_CACHE_EVICT)


def reachable(config: ConnectorConfig) -> bool:
    """Tell within ``connect_timeout_ms`` whether something listens at the worker's address.

    Unlike the DataSystem client, this does not hold the interpreter lock while it waits.
    """
    address = (config.worker_address.host, config.worker_address.port)
    try:
        with socket.create_connection(address, timeout=config.connect_timeout_ms / 1000):
            return True
    except OSError:
        return False
