"""What a profile of ``invoke bench`` runs, as data. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workshop.bench.dataset.commands import Wanted
from workshop.bench.statistics import alternation
from yrpd.errors import ConfigurationError

#: Arms: plain vLLM; plain vLLM whose device cache holds everything, the upper bound; with the connector (``kv_both``);
#: a prefill and a decode instance behind the endpoint (1P1D).
BASELINE, LARGE, SINGLE, PAIR = "baseline", "large", "single", "pair"
OPENING_TOKENS = 16  # less than a block, so that the request that vLLM's benchmark sends twice changes no hit rate
OPENING_REQUESTS = 2  # vLLM's benchmark sends the first request once to try the server, and once with the others
_ROUNDS = 3
_TURN_TOKENS = 4096  # two or three seconds of computing
OUTPUT_TOKENS = 2  # as in the tutorial: one to wait for, one to time


@dataclass(frozen=True)
class Load:
    """How requests arrive.

    Attributes:
        name: In file names and tables.
        concurrency: Requests at a time; 0 for an open loop.
        of_capacity: Open loop: Poisson arrivals at this share of what the baseline did at concurrency 1.
    """

    name: str
    concurrency: int = 0
    of_capacity: float = 0.0


ONE, EIGHT, OPEN = Load("c1", 1), Load("c8", 8), Load("open", of_capacity=0.7)


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        wanted: The dataset, without its salt.
        load: How it is sent.
        arms: Which engines.
        rounds: Repetitions of each arm.
    """

    wanted: Wanted
    load: Load
    arms: tuple[str, ...]
    rounds: int

    @property
    def name(self) -> str:
        """In file names."""
        return f"{self.wanted.shape}-{self.wanted.length}-{self.load.name}"

    def order(self) -> list[list[str]]:
        """Return the arms of each round, in alternation: A B, B A, A B."""
        return _alternating(self.arms, self.rounds)

    def turns(self, number: int, prompts: int) -> list[tuple[int, int, list[str]]]:
        """Return in which pieces a round's prompts are sent, and to which arms one after the other.

        Between two arms' pieces lie seconds, not minutes: what else the machine does meanwhile changes both alike.
        Where requests overlap, a piece would have to wait for its last one, so there the round is one piece.

        Args:
            number: Which round.
            prompts: How many prompts it has.

        Returns:
            ``(first, behind the last, arms)`` of each piece.
        """
        first = self.order()[number]
        size = max(1, _TURN_TOKENS // self.wanted.length) if self.load.concurrency == 1 else prompts
        starts = range(0, prompts, size)
        orders = _alternating(first, len(starts))
        return [(start, min(start + size, prompts), arms) for start, arms in zip(starts, orders, strict=True)]


@dataclass(frozen=True)
class Profile:
    """A whole benchmark.

    Attributes:
        name: On the command line.
        cases: In the order of running.
        device_tokens: Device cache of baseline and ours.
        model: Which of the models that are made here; a large one's own cost hides what every request costs anyway.
        block_size: Tokens of a KV block.
        step_tokens: ``--max-num-batched-tokens``, vLLM's own default: longer prompts are prefilled in chunks.
        datasystem_mb: Memory of the DataSystem worker.
        datasystem_disk_mb: Disk below it.
        starts_anew: Every repetition has engines of its own, so that what one start brings with it is not in all.
    """

    name: str
    cases: tuple[Case, ...]
    device_tokens: int
    model: str = "qwen2_wide"
    block_size: int = 128
    step_tokens: int = 2048
    datasystem_mb: int = 3072
    datasystem_disk_mb: int = 4096
    starts_anew: bool = False

    def starts(self, lacking: Sequence[tuple[Case, int]]) -> list[list[tuple[Case, int]]]:
        """Return which ``(case, repetition)`` are measured between one start of the engines and the next."""
        if not self.starts_anew:
            return [list(lacking)]
        numbers = sorted({number for _, number in lacking})
        return [[each for each in lacking if each[1] == number] for number in numbers]

    @property
    def arms(self) -> tuple[str, ...]:
        """Every engine that some case uses."""
        return tuple(dict.fromkeys(arm for case in self.cases for arm in case.arms))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return max(case.wanted.length for case in self.cases) + OUTPUT_TOKENS

    @property
    def device_blocks(self) -> int:
        """``--num-gpu-blocks-override`` of baseline and ours; one is vLLM's null block."""
        return self.device_tokens // self.block_size + 1

    @property
    def large_blocks(self) -> int:
        """The same of the upper bound: room for the largest dataset."""
        sizes = [(case.wanted.groups * max(case.wanted.per_group, 1) * _blocks(case, self)) for case in self.cases]
        return max(sizes) + _blocks_of(self.longest, self.block_size) + 1


def _alternating(arms: Sequence[str], rounds: int) -> list[list[str]]:
    turns: list[list[str]] = [[] for _ in range(rounds)]
    for number, arm in alternation(arms, rounds):
        turns[number].append(arm)
    return turns


def _blocks(case: Case, profile: Profile) -> int:
    return _blocks_of(case.wanted.length + OUTPUT_TOKENS, profile.block_size)


def _blocks_of(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)


#: The figure's 300 groups and 265,000 tokens of device cache, both by 30. No cache is smaller than one prompt, so
#: longer prompts come in fewer groups of the same ten: what the cache holds of them stays a prompt or two.
_GROUPS, _PER_GROUP, _DEVICE_TOKENS = 10, 10, 8832


def _grouped(length: int, load: Load, *more: str, groups: int = _GROUPS) -> Case:
    return Case(Wanted("grouped", length, groups, _PER_GROUP, 0.5), load, (BASELINE, SINGLE, *more), _ROUNDS)


def _apart(length: int, prompts: int, documents: int, *more: str) -> tuple[Case, ...]:
    """Return the cases beside the tutorial's: nothing, everything, and nine tenths of a prompt found again."""
    return (
        Case(Wanted("unique", length, prompts, 1), ONE, (BASELINE, SINGLE), _ROUNDS),
        Case(Wanted("repeated", length, prompts, 2), ONE, (LARGE, SINGLE), _ROUNDS),
        Case(Wanted("document", length, documents, 3, 0.9), ONE, (BASELINE, SINGLE, *more), _ROUNDS),
    )


def _quick() -> Profile:
    cases = (
        _grouped(1024, ONE, PAIR, groups=5),
        _grouped(2048, ONE, groups=5),
        *_apart(4096, prompts=3, documents=2),
    )
    return Profile("quick", cases, 4224)  # half of it, and no more blocks than the longest prompt has


def _full() -> Profile:
    """Return every length; beside each ideal, a device cache for everything shows what caching can bring at most."""
    groups = {1024: 10, 2048: 8, 4096: 6, 8192: 3}
    prompts_and_documents = {1024: (20, 10), 2048: (10, 6), 4096: (4, 4), 8192: (3, 3)}
    cases = (
        _grouped(1024, ONE, LARGE, PAIR),
        *(_grouped(length, ONE, LARGE, groups=number) for length, number in groups.items() if length > 1024),
        *(case for length, numbers in prompts_and_documents.items() for case in _apart(length, *numbers, LARGE)),
        Case(Wanted("multi-turn", 4096, 4, 5), ONE, (BASELINE, SINGLE), _ROUNDS),
        _grouped(1024, EIGHT),
        _grouped(1024, OPEN),
    )
    return Profile("full", cases, _DEVICE_TOKENS, datasystem_mb=4096, starts_anew=True)


def _smoke() -> Profile:
    """Return the smallest run in which ours finds what plain vLLM does not; for the tests."""
    cases = (Case(Wanted("document", 256, 4, 2, 0.75), ONE, (BASELINE, SINGLE, PAIR), 1),)
    return Profile("smoke", cases, 384, "qwen2", datasystem_mb=512)


def profile_named(name: str) -> Profile:
    """Return a profile.

    Raises:
        ConfigurationError: There is none of this name.
    """
    makers = {"quick": _quick, "full": _full, "smoke": _smoke}
    if name not in makers:
        raise ConfigurationError(
            f"There is no profile {name!r}; there are: {', '.join(makers)}.", next_command="invoke bench"
        )
    return makers[name]()


def choose(profile: Profile, only: str) -> tuple[Case, ...]:
    """Return the cases whose name a regular expression is found in.

    Raises:
        ConfigurationError: There is none, or it is no regular expression.
    """
    try:
        found = tuple(case for case in profile.cases if re.search(only, case.name))
    except re.error as error:
        raise ConfigurationError(f"{only!r} is no regular expression: {error}.", next_command="invoke bench") from error
    if not found:
        names = ", ".join(case.name for case in profile.cases)
        raise ConfigurationError(
            f"No case of {profile.name} is called {only!r}; there are: {names}.",
            next_command=f"invoke bench --profile {profile.name} --dry-run",
        )
    return found


def describe(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return cases as a document, for a plan and for the record."""
    return [
        {
            "case": case.name,
            "prompts": case.wanted.groups * max(case.wanted.per_group, 1),
            "order": case.order(),
        }
        for case in cases
    ]
