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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from yrpd.cli import execute
from yrpd.deploying.inventory import Inventory, load_inventory
from yrpd.deploying.status.counters import read_counters
from yrpd.deploying.verifying.client import AskError, ask_plainly, get_text
from yrpd.deploying.verifying.questions import COMPLETIONS
from yrpd.errors import EnvironmentFailure
from yrpd.project import Project
from yrpd.reporting import Reporter

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


def run(
    project: Project, reporter: Reporter, hosts_file: Path, minutes: float, tokens: int, period: float
) -> dict[str, Any]:
    """Measure what an inventory's first P and D take, and say it.

    Args:
        project: The checkout.
        reporter: Gets the table.
        hosts_file: The inventory of what is deployed.
        minutes: How long.
        tokens: Length of each prompt.
        period: Seconds from request to request.

    Returns:
        ``{P: {count, median, p99, slowest}, D: ..., "P and D": ..., loaded_blocks}``, seconds.

    Raises:
        ConfigurationError: The inventory is none.
        EnvironmentFailure: P or D does not answer, or the model's configuration cannot be read here.
    """
    inventory = load_inventory(hosts_file)
    vocabulary = _vocabulary(project.root / inventory.model.path / "config.json")
    decode = urls(inventory)[1]
    try:
        before = read_counters(get_text(decode, "/metrics"))["loaded_blocks"]
        title = f"asking for {minutes:g} minutes, once every {period:g} s"
        with reporter.step(title):
            found = measure(inventory, vocabulary, minutes * 60, tokens, period)
        loaded = read_counters(get_text(decode, "/metrics"))["loaded_blocks"] - before
    except AskError as error:
        raise EnvironmentFailure(
            f"P or D of {inventory.name} does not answer: {error}.", next_command=f"invoke deploy --hosts {hosts_file}"
        ) from error
    table = Table("", "requests", "median", "p99", "slowest", "slowest / median", title=f"{tokens} new tokens each")
    for name, spread in found.items():
        times = (f"{seconds * 1000:.0f} ms" for seconds in (spread.median, spread.p99, spread.slowest))
        table.add_row(name, str(spread.count), *times, f"{spread.ratio:.1f}")
    reporter.render(table)
    reporter.say(f"D loaded {loaded:.0f} blocks")
    return {**{name: asdict(spread) for name, spread in found.items()}, "loaded_blocks": loaded}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; the exit code is the error class's."""
    parser = argparse.ArgumentParser(prog="python -m workshop.bench.steady", description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=Path, default=Path("lab.toml"), help="the inventory of what is deployed")
    parser.add_argument("--minutes", type=_positive, default=10.0)
    parser.add_argument(
        "--tokens", type=int, default=600, choices=range(1, 100_001), metavar="N", help="of each prompt"
    )
    parser.add_argument("--period", type=_positive, default=0.5, help="seconds from request to request")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, all else on stderr")
    parser.add_argument("--verbose", action="store_true", help="a traceback on failure")
    given = parser.parse_args(arguments)
    execute(
        lambda project, reporter: run(project, reporter, given.hosts, given.minutes, given.tokens, given.period),
        as_json=given.json,
        verbose=given.verbose,
    )


def _vocabulary(file: Path) -> int:
    try:
        configuration = json.loads(file.read_text(encoding="utf-8"))
        return int(configuration.get("vocab_size") or configuration["text_config"]["vocab_size"])
    except (OSError, ValueError, KeyError) as error:
        raise EnvironmentFailure(
            f"{file} does not say how many tokens the model knows: {error}.", next_command="invoke lab.up"
        ) from error


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("expected more than 0")
    return number


if __name__ == "__main__":
    main()
