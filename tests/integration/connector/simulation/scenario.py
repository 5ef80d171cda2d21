"""What happens to engines: a seed names one history of clients, operators, the DataSystem, and time.

A seed also says how often each kind of event comes, so that some histories are all about one kind and others mix them.
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest
from vllm_ascend.distributed.yuanrong import lookups, scheduler
from vllm_ascend.distributed.yuanrong.transport import host, npu

from tests.integration.connector.engine import Setup
from tests.integration.connector.simulation.clock import Simulation, replaced
from tests.integration.connector.simulation.connections import changes
from tests.integration.connector.simulation.faults import Fault
from tests.integration.connector.simulation.machine import Machine
from tests.integration.connector.simulation.oracle import VOCABULARY, Item
from tests.integration.connector.simulation.world import Weather, World

PLACEHOLDER = VOCABULARY + 1
CAT, DOG = "ca" * 32, "d0" * 32  # as long as vLLM's own hashes
_OUTPUT = 8

#: How often each kind of event comes, when a seed has it at all.
_EVENTS = {
    "leave": 5, "return": 6, "evict": 4, "forget": 12, "weather": 4, "weights": 2, "adapter": 3, "burst": 2, "beam": 3,
    "idle": 6,
}  # fmt: skip


@dataclass
class _Operator:
    """Adapters as an operator has them on disk, for all engines."""

    folder: Path
    versions: dict[str, int] = field(default_factory=dict)
    numbers: int = 0

    def retrain(self, name: str) -> None:
        """Write an adapter's files, of another content each time, in the place of those of before."""
        self.versions[name] = version = max(self.versions.values(), default=0) + 1
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        for file, text in (("adapter_config.json", json.dumps({"r": 8})), ("adapter_model.bin", f"{version:08}")):
            fresh = place / f"{file}.new"
            fresh.write_text(text)
            os.replace(fresh, place / file)

    def load(self, machine: Machine, name: str) -> LoRARequest:
        """Load an adapter as vLLM does: under a number that it never had."""
        self.numbers += 1
        lora = LoRARequest(lora_name=name, lora_int_id=self.numbers, lora_path=str(self.folder / name))
        with machine.scheduler.connector._adapters.loading(lora):
            machine.adapters[self.numbers] = self.versions[name]
        return lora


class Scenario:
    """One interleaving.

    Args:
        seed: Names it.
        setup: What the engines are made of.
        simulation: Its time.
        folder: For the model, and for adapters.
    """

    def __init__(self, seed: int, setup: Setup, simulation: Simulation, folder: Path) -> None:
        self.rng, self.simulation = simulation.rng, simulation
        self.world = World(simulation)
        rng = self.rng
        self.weights = {name: weight for name, weight in _EVENTS.items() if rng.random() < 0.6}
        self.weights |= {"ask": 30, "step": rng.choice([30, 60, 120])}
        self.settings = {
            "weights_id": "w",
            "lookup_cache_ms": rng.choice([0, 0, 1000]),
            "hazard_timeout_ms": rng.choice([1, 50, 200]),
            "poll_ms": 5,
            "load_threads": rng.choice([1, 2]),
            "load_timeout_ms": rng.choice([3000, 10000]),
            "load_queue_timeout_ms": rng.choice([500, 10000]),
            "sync_save_timeout_ms": rng.choice([100, 5000]),
            "retry_failed_ms": rng.choice([0, 30000]),
            "probe_interval_ms": rng.choice([20, 200, 2000]),
            "batch_bytes": rng.choice([200, 1 << 20]),
        } | setup.extra
        self.pace = rng.choice([(0.005,), (0.005, 0.02, 0.2), (0.02, 0.5, 3.0)])
        self.moods = Weather(
            usual=rng.choice([(0.0005, 0.002), (0.002, 0.02, 0.1), (0.1, 0.5)]),
            slow=rng.choice([0.0, 0.0, 0.0, 0.05, 0.3]),
            trouble=rng.choice([0.0, 0.0, 0.05, 0.3]),
            holds=rng.random() < 0.3,
            hangs=rng.choice([0.0, 0.0, 0.2]),
        )
        self.world.weather = replace(self.moods)
        chosen = replace(setup, extra=self.settings, longest=setup.longest + _OUTPUT)
        roles = ("kv_producer", "kv_consumer") if rng.random() < 0.6 else ("kv_both",) * rng.choice([1, 1, 2])
        forms = [setup.form] * 2
        if setup.form:
            roles, forms = ("kv_both", "kv_both"), ["", setup.form]
        self.machines = [
            Machine(replace(chosen, role=role, form=form), self.world, folder, lambda: rng.choice(self.pace))
            for role, form in zip(roles, forms, strict=False)
        ]
        self.stems = [[rng.randrange(VOCABULARY) for _ in range(64)] for _ in range(2)]
        self.history: list[tuple[list[int], list[Item]]] = []
        self.few_ids = rng.random() < 0.5
        self.pictures = rng.choice([0.0, 0.2, 0.6])
        self.operator = _Operator(folder / "adapters" / f"{os.getpid()}-{seed}")
        self.adapters: dict[int, list[LoRARequest]] = {id(machine): [] for machine in self.machines}
        self.count = 0
        self.events = Counter[str]()
        self.planning_fails = rng.choice([0.0, 0.0, 0.0, 0.05])
        for machine in self.machines:
            machine.side._plan_save = self._sometimes_failing(machine.side._plan_save)

    def run(self) -> None:
        """Let it all happen, and then everything end well."""
        names = list(self.weights)
        for machine in self.machines:
            for _ in range(3):  # so that there is something to load
                self._ask(machine)
            for _ in range(self.rng.choice([0, 20])):
                self._step(machine)
        for _ in range(self.rng.randint(30, 110)):
            name = self.rng.choices(names, list(self.weights.values()))[0]
            machine = self.rng.choice(self.machines)
            getattr(self, f"_{name}")(machine)
            self.events[name] += 1
            self.simulation.check()
        self.world.weather = Weather()
        for machine in self.machines:
            machine.finish()
        left = self.world.tainted - {key for m in self.machines for each in m.workers for key in each._doubtful}
        assert not left, "what a lost call published is still there"

    def _sometimes_failing(self, plan_save: Callable[..., None]) -> Callable[..., None]:
        def planned(*args: Any) -> None:
            if self.rng.random() < self.planning_fails:
                raise MemoryError
            plan_save(*args)

        return planned

    # -- events --------------------------------------------------------------------------------------------------------

    def _step(self, machine: Machine) -> None:
        if machine.busy():
            machine.step()
            self.simulation.sleep(0.001)
        else:
            self.simulation.sleep(0.01)

    def _idle(self, _: Machine) -> None:
        self.simulation.sleep(self.rng.choice([0.001, 0.05, 0.5, 3.0, 15.0]))

    def _ask(self, machine: Machine) -> None:
        self._request(machine, self._name(machine))

    def _burst(self, machine: Machine) -> None:
        for _ in range(self.rng.randint(4, 16)):
            self.count += 1
            self._request(machine, f"b{self.count}")

    def _beam(self, machine: Machine) -> None:
        """Ask as ``n`` > 1 does (one prompt under several ids), or as beam search: ids that come back, one token on."""
        prompt, items = self._prompt(machine)
        for number in range(self.rng.randint(2, 3)):
            name = f"{number}_beam"
            if name in machine.asked:
                continue
            tail = [self.rng.randrange(VOCABULARY)] if self.history and len(prompt) < machine.setup.longest // 2 else []
            self._request(machine, name, (prompt + tail, items), 1 if self.rng.random() < 0.5 else None)

    def _leave(self, machine: Machine) -> None:
        if machine.asked:
            machine.leave(self.rng.choice(list(machine.asked)))

    def _return(self, machine: Machine) -> None:
        """Let a client leave, rather one whose load has begun, and come back at once under its id."""
        loading = [name for name in machine.asked if machine.scheduler.requests[name].status.name.endswith("KVS")]
        names = loading or list(machine.asked)
        if names:
            name = self.rng.choice(names)
            asked = machine.asked[name]
            again = (asked.prompt, asked.items) if self.rng.random() < 0.5 else None
            machine.leave(name)
            if self.rng.random() < 0.3:
                self._step(machine)
            self._request(machine, name, again)

    def _evict(self, _: Machine) -> None:
        if self.world.objects:
            self.world.evict(self.rng.choice(list(self.world.objects)))

    def _forget(self, machine: Machine) -> None:
        machine.scheduler.kv_cache_manager.reset_prefix_cache()  # device memory alone, so that blocks are loaded

    def _weather(self, _: Machine) -> None:
        calm = self.world.weather == self.moods
        weather = replace(self.moods)
        if calm:  # a bad time is followed by a good one
            setattr(weather, *self.rng.choice([("up", False), ("full", True), ("slow", 1.0)]))
        self.world.weather = weather

    def _weights(self, machine: Machine) -> None:
        if machine.idle():
            self.count += 1
            machine.replace_weights(self.count)

    def _adapter(self, machine: Machine) -> None:
        name = self.rng.choice(["sql", "legal"])
        if name not in self.operator.versions or self.rng.random() < 0.5:
            self.operator.retrain(name)
        self.adapters[id(machine)].append(self.operator.load(machine, name))

    # -- requests ------------------------------------------------------------------------------------------------------

    def _name(self, machine: Machine) -> str:
        free = [name for name in ("x", "y", "yrload:1", "yrfail:x") if name not in machine.asked]
        if self.few_ids and free:
            return self.rng.choice(free)
        self.count += 1
        return f"r{self.count}"

    def _request(
        self, machine: Machine, name: str, prompt: tuple[list[int], list[Item]] | None = None, count: int | None = None
    ) -> None:
        rng = self.rng
        tokens, items = prompt or self._prompt(machine)
        if count is None:
            count = 1 if machine.setup.role == "kv_producer" else rng.randint(1, _OUTPUT)
        loras = self.adapters[id(machine)]
        lora = rng.choice(loras[-3:]) if loras and rng.random() < 0.6 else None
        more: dict[str, Any] = {"cache_salt": rng.choice([None, None, None, "salt"])}
        if machine.setup.policy == "priority":
            self.count += 1
            more |= {"priority": rng.randrange(3), "arrival_time": float(self.count)}
        machine.ask(name, tokens, count, items, lora, **more)

    def _prompt(self, machine: Machine) -> tuple[list[int], list[Item]]:
        """Return a prompt that was asked before, or that shares its beginning with others."""
        rng, longest = self.rng, machine.setup.longest - _OUTPUT
        if self.history and rng.random() < 0.6:
            return rng.choice(self.history)
        length = rng.choice([1, 3, 4, 5, 8, 9, longest, rng.randint(1, longest)])
        shared = rng.choice(self.stems)[: rng.choice([0, length // 2, length, length])]
        tokens = (shared + [rng.randrange(VOCABULARY) for _ in range(longest)])[:length]
        items: list[Item] = []
        if length >= 6 and rng.random() < self.pictures:
            start = rng.randrange(0, length - 3)
            items = [(rng.choice([CAT, DOG]), start, rng.randint(1, length - start))]
        for _, start, size in items:  # vLLM's own prefix cache tells a picture's place only by placeholders
            tokens[start : start + size] = [PLACEHOLDER] * size
        self.history.append((tokens, items))
        return tokens, items


def interleave(seed: int, setup: Setup, folder: Path, totals: Counter[str], faults: Sequence[Fault] = ()) -> None:
    """Run one interleaving.

    Args:
        seed: Names it.
        setup: What the engines are made of.
        folder: For files.
        totals: Gets what happened.
        faults: Mistakes to put into the connector.

    Raises:
        BaseException: What was found.
    """
    simulation = Simulation(random.Random(seed))
    sizes: list[tuple[Any, str, Any]] = []
    if setup.keys_per_call < lookups.KEYS_PER_CALL:
        places = [(lookups, "KEYS_PER_CALL"), (scheduler, "KEYS_PER_CALL"), (scheduler, "REPEAT_KEYS")]
        places += [(host, "MAX_EXIST_KEYS"), (npu, "MAX_KEYS")]
        sizes = [(module, name, setup.keys_per_call) for module, name in places]
    with ExitStack() as stack:
        logging.disable(logging.CRITICAL)  # thousands of lines a second, which nobody reads
        stack.callback(logging.disable, logging.NOTSET)
        stack.enter_context(replaced([*changes(simulation), *sizes]))
        for fault in faults:
            stack.enter_context(replaced(fault.changes(simulation)))
        stack.callback(simulation.stop)
        scenario = Scenario(seed, setup, simulation, folder)
        scenario.run()
        for machine in scenario.machines:
            totals.update(machine.counts)
            totals["steps"] += machine.steps
        totals.update({f"event {name}": count for name, count in scenario.events.items()})


#: What the engines are made of, by name. Every one has every kind of event.
SETUPS: dict[str, Setup] = {
    "vllm": Setup(longest=32),
    "vllm-small-cache": Setup(blocks=13, seqs=6, longest=24),
    "vllm-no-prefix-cache": Setup(caching=False, blocks=16, longest=24),
    "vllm-saves-output": Setup(blocks=16, longest=32, keys_per_call=4, extra={"save_output": True}),
    "vllm-priority": Setup(blocks=13, seqs=6, longest=24, policy="priority"),
    "vllm-window": Setup(blocks=16, longest=32, window=8),
    "vllm-npu": Setup(blocks=16, kind="npu", longest=24),
    "ascend": Setup(ascend=True, chunked=False, budget=64, longest=32),
    "ascend-npu": Setup(ascend=True, chunked=False, budget=64, blocks=13, seqs=6, kind="npu", longest=24),
    "ascend-chunked": Setup(ascend=True, blocks=16, kind="npu", keys_per_call=3, longest=40),
    "two-forms": Setup(blocks=20, kind="npu", form="nz", longest=24),
    "two-ranks": Setup(blocks=16, ranks=2, longest=24),
    "four-ranks-npu": Setup(blocks=16, ranks=4, kind="npu", longest=24),
}
