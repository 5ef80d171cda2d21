"""Requests at a steady, low rate to P and then to D: how much slower is the slowest than the median?

``PYTHONPATH=scripts .venv/bin/python -m workshop.bench.steady [--hosts lab.toml] [--minutes 10] [--tokens 600]``

A stack that stands still now and then has a fine median. Every prompt is new, so P computes and saves its blocks and D
loads them. Only the ratio of one run counts.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.status.counters import read_counters
from yrpd.deploying.verifying.client import ask_plainly, get_text
from yrpd.deploying.verifying.questions import COMPLETIONS
from yrpd.project import Project

_WARM = 5
#: Ids below these mean something to a tokenizer.
_SPECIAL = 10


@dataclass(frozen=True)
class Spread:
    """Seconds of many requests.

    Attributes:
        count: How many.
        median: Of all.
        p99: Ninety-nine of a hundred take at most this.
        slowest: The slowest.
    """

    count: int
    median: float
    p99: float
    slowest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Return the spread of some seconds."""
        ordered = sorted(seconds)
        return cls(len(ordered), statistics.median(ordered), ordered[int(len(ordered) * 0.99)], ordered[-1])

    @property
    def ratio(self) -> float:
        """The slowest over the median."""
        return self.slowest / self.median


def urls(inventory: Inventory) -> tuple[str, str]:
    """Return where the first P and the first D answer."""
    addresses = {host.name: host.address for host in inventory.hosts}
    first, second = inventory.prefill[0], inventory.decode[0]
    return f"http://{addresses[first.host]}:{first.port}", f"http://{addresses[second.host]}:{second.port}"


def measure(inventory: Inventory, vocabulary: int, seconds: float, tokens: int, period: float) -> dict[str, Spread]:
    """Ask P and then D for one token about a new prompt, once a period, and return what they took.

    Args:
        inventory: What is deployed.
        vocabulary: Token ids are below it.
        seconds: How long.
        tokens: Length of each prompt.
        period: Seconds from the beginning of a request to that of the next; a late one is not made up for.
    """
    prefill, decode = urls(inventory)
    rng = random.Random(time.time_ns())  # noqa: S311 - new prompts, no secrets
    took: dict[str, list[float]] = {"P": [], "D": [], "P and D": []}

    def pair() -> tuple[float, float]:
        prompt = [rng.randrange(_SPECIAL, vocabulary - _SPECIAL) for _ in range(tokens)]
        body = {"model": inventory.model.served_name, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        begin = time.monotonic()
        ask_plainly(prefill, COMPLETIONS, body)
        between = time.monotonic()
        ask_plainly(decode, COMPLETIONS, body)
        return between - begin, time.monotonic() - between

    for _ in range(_WARM):
        pair()
    end = time.monotonic() + seconds
    due = time.monotonic()
    while time.monotonic() < end:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + period, time.monotonic())
        first, second = pair()
        for name, value in (("P", first), ("D", second), ("P and D", first + second)):
            took[name].append(value)
    return {name: Spread.of(values) for name, values in took.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m workshop.bench.steady", description=__doc__)
    parser.add_argument("--hosts", type=Path, default=Path("lab.toml"), help="The inventory of what is deployed.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--tokens", type=int, default=600, help="Tokens of each prompt.")
    parser.add_argument("--period", type=float, default=0.5, help="Seconds from request to request.")
    given = parser.parse_args(arguments)
    inventory = load_inventory(given.hosts)
    folder = Project.here().root / inventory.model.path
    configuration = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = int(configuration.get("vocab_size") or configuration["text_config"]["vocab_size"])
    before = read_counters(get_text(urls(inventory)[1], "/metrics"))
    found = measure(inventory, vocabulary, given.minutes * 60, given.tokens, given.period)
    after = read_counters(get_text(urls(inventory)[1], "/metrics"))
    for name, spread in found.items():
        print(
            f"{name:8} {spread.count} requests: median {spread.median * 1000:.0f} ms, p99 {spread.p99 * 1000:.0f} ms, "
            f"slowest {spread.slowest * 1000:.0f} ms, slowest / median {spread.ratio:.1f}"
        )
    print(f"D loaded {after['loaded_blocks'] - before['loaded_blocks']:.0f} blocks")


if __name__ == "__main__":
    main()
