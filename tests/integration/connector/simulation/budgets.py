"""What a step may wait for: docs/connector.md, "Budgets of a step", counted on the simulation's clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from vllm_ascend.distributed.yuanrong.config import ConnectorConfig

from tests.integration.connector.simulation.clock import SimulatedThread, Simulation

T = TypeVar("T")
_TICK = 1e-6  # what sums of seconds may differ by
_CALL_OFF = 0.02
#: How long the simulation takes at most to copy what a host copies before it looks whether it still may.
HOST_COPY = 0.004


class Budgets:
    """Counts for one rank of an engine.

    Args:
        simulation: Its clock.
        config: The settings that bound each wait.
        npu: Whether a copy under way cannot be called off.
    """

    def __init__(self, simulation: Simulation, config: ConnectorConfig, npu: bool) -> None:
        self._simulation = simulation
        copy = config.request_timeout_ms / 1000 if npu else HOST_COPY
        self._limits = {
            "start": config.hazard_timeout_ms / 1000 + copy,
            "save": config.sync_save_timeout_ms / 1000,
            "collect": config.poll_ms / 1000,
        }
        self._on_one_job: dict[tuple[str, Any], float] = {}

    def timed(self, kind: str, saver: SimulatedThread | None, work: Callable[[], T]) -> T:
        """Do what a step does, and see that it has not waited too long.

        Args:
            kind: ``start``, ``save`` or ``collect``.
            saver: The rank's saving thread, if it has one.
            work: What the step does.
        """
        simulation, limit = self._simulation, self._limits[kind]
        job = saver.job if saver is not None else None
        began, held = simulation.now, simulation.held
        done = work()
        waited = simulation.now - began - (simulation.held - held)
        if waited > limit + _CALL_OFF + _TICK:
            simulation.fail(f"a step waited {waited:.3f} s in its {kind}; {limit + _CALL_OFF:.3f} s are its budget")
        if saver is not None and job is not None and saver.job is job:
            spent = self._on_one_job.get((kind, job), 0.0) + max(0.0, waited - _CALL_OFF)
            self._on_one_job[kind, job] = spent
            if spent > limit + _TICK:
                simulation.fail(f"steps waited {spent:.3f} s in their {kind} for one save; their budget is {limit:.3f}")
        return done


class LookupBudget:
    """Counts the lookups of a step.

    Args:
        simulation: Its clock.
        config: The settings that bound them.
        calls_of_one: How many calls the longest prompt's keys need.
    """

    def __init__(self, simulation: Simulation, config: ConnectorConfig, calls_of_one: int) -> None:
        self._simulation = simulation
        self._seconds = 2 * config.lookup_timeout_ms / 1000
        self._calls = 5 * calls_of_one
        self._count = 0

    def count(self, kind: str) -> None:
        """Take note of a call."""
        self._count += kind == "exist"

    def step(self, work: Callable[[], T]) -> T:
        """Do what a step's schedule does, and see that it has not asked too often, or for too long."""
        self._count, began = 0, self._simulation.now
        done = work()
        if self._count > self._calls:
            self._simulation.fail(f"a step asked {self._count} times; {self._calls} are its budget")
        seconds = self._simulation.now - began
        if seconds > self._seconds + _TICK:
            self._simulation.fail(f"a step's lookups took {seconds:.3f} s; {self._seconds:.3f} s are their budget")
        return done
