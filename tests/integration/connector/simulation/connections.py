"""The connector's real transports, over the simulated DataSystem and on the simulation's clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from vllm_ascend.distributed.yuanrong import jobs, worker
from vllm_ascend.distributed.yuanrong.config import ConnectorConfig
from vllm_ascend.distributed.yuanrong.layout import KVLayout
from vllm_ascend.distributed.yuanrong.transport import base, breaker, host, npu, room
from vllm_ascend.distributed.yuanrong.transport.breaker import BreakingTransport

from tests.integration.connector.simulation.budgets import HOST_COPY
from tests.integration.connector.simulation.clock import Simulation, stand_ins
from tests.integration.connector.simulation.device import Device
from tests.integration.connector.simulation.world import Blob, BlobList, HostClient, NpuClient, World


def changes(simulation: Simulation) -> list[tuple[Any, str, Any]]:
    """Return what the connector's modules get instead of threads, time and processor cores."""
    names = stand_ins(simulation)
    found = [
        (module, name, names[name])
        for module in (worker, jobs, base, breaker, host, npu)
        for name in ("threading", "time", "queue")
        if hasattr(module, name)
    ]

    def unbind() -> None:
        simulation.current.unbound = True

    rooms = partial(room.Room, clock=simulation.monotonic)
    return [*found, (worker, "unbind", unbind), (host, "Room", rooms), (npu, "Room", rooms)]


def connected(
    kind: str,
    world: World,
    device: Device,
    config: ConnectorConfig,
    layout: KVLayout | None,
    timeout: int,
    count: Callable[[str], None],
) -> BreakingTransport:
    """Return a transport behind its breaker, as the connector makes it.

    Args:
        kind: ``host`` or ``npu``.
        world: What it connects to.
        device: Where the KV blocks are.
        config: The connector's settings.
        layout: Where each block is; None for a connection that only asks.
        timeout: Of each call, in milliseconds.
        count: Called with the kind of each call.
    """
    pause = config.probe_interval_ms / 1000

    def connect() -> Any:
        if kind == "npu":
            client = NpuClient(world, timeout / 1000, count, pause)
            return npu.NpuTransport(client, config, layout, (Blob, BlobList, None), device)
        transport = host.HostTransport(HostClient(world, timeout / 1000, count, pause), config, layout, None)
        if transport._copier is not None:
            transport._copier = _SlowCopier(world.simulation, transport._copier)
        return transport

    def alive() -> bool:
        return world.weather.up

    clock = world.simulation.monotonic
    found = BreakingTransport(connect, alive, pause, config.breaker_failures, lambda _: None, clock)
    found.start()
    return found


class _SlowCopier:
    """A copier whose copies take time, half before and half after."""

    def __init__(self, simulation: Simulation, copier: Any) -> None:
        self._simulation, self._copier = simulation, copier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._copier, name)

    def copy_out(self, *args: Any) -> Any:
        """Copy blocks out."""
        self._simulation.sleep(HOST_COPY / 4)
        done = self._copier.copy_out(*args)
        self._simulation.sleep(HOST_COPY / 4)
        return done

    def copy_in(self, *args: Any) -> Any:
        """Copy blocks in."""
        self._simulation.sleep(HOST_COPY / 4)
        done = self._copier.copy_in(*args)
        self._simulation.sleep(HOST_COPY / 4)
        return done
