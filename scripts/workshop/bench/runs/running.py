"""Runs a profile: engines up, every case in alternation, raw results into the ledger. In the built environment."""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from workshop.bench.commands import environment as measured_environment
from workshop.bench.dataset.caching import expect
from workshop.bench.dataset.commands import Wanted, make_shape
from workshop.bench.dataset.description import model_sizes
from workshop.bench.dataset.files import write_vllm
from workshop.bench.dataset.shapes import Opened, Part
from workshop.bench.dataset.text import Writer
from workshop.bench.dataset.words import Words, load_words
from workshop.bench.runs import counted
from workshop.bench.runs.generator import Generator, argv, generator
from workshop.bench.runs.ledger import Ledger
from workshop.bench.runs.profiles import (
    BASELINE,
    ONE,
    OPENING_TOKENS,
    OUTPUT_TOKENS,
    PAIR,
    Case,
    Profile,
    choose,
    describe,
)
from workshop.bench.runs.servers import SETTINGS, Engine, command_lines, engines
from workshop.bench.runs.tiers import TierLog, worker_flags
from workshop.datasystem import etcd
from workshop.datasystem import worker as datasystem_worker
from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.reporting import Reporter

_VOLATILE = ("load_average",)
_WARM_UP_PROMPTS = 2


def run(
    project: Project,
    reporter: Reporter,
    profile: Profile,
    model: Path,
    folder: Path,
    command: str,
    envoy: str,
    only: str = "",
) -> dict[str, Any]:
    """Measure what the run's folder does not have yet, of the cases whose name a regular expression is found in.

    Raises:
        ConfigurationError: The folder holds a run of another configuration, or a prompt does not fit.
        EnvironmentFailure: An engine, the DataSystem or the load generator failed.
    """
    words, sizes = load_words(model), model_sizes(model)
    ledger = Ledger.begin(folder, configuration(project, profile, model, sizes.dtype), command)
    lacking = [
        (case, number)
        for case in choose(profile, only)
        for number in range(case.rounds)
        if not ledger.has(case.name, number)
    ]
    if not lacking:
        reporter.say("every repetition that was asked for is there; --fresh measures anew")
        return {"folder": str(folder), "state": "unchanged"}
    for together in profile.starts(lacking):
        cases = [case for case, _ in together]
        with _session(profile, cases, model, words, sizes.dtype, ledger, envoy, reporter) as session:
            for case, number in together:
                order = ", ".join(case.order()[number])
                with reporter.step(f"{case.name}, repetition {number + 1} of {case.rounds}: {order}"):
                    session.measure(case, number)
    return {"folder": str(folder), "state": "measured"}


@contextmanager
def _session(
    profile: Profile,
    cases: Sequence[Case],
    model: Path,
    words: Words,
    dtype: str,
    ledger: Ledger,
    envoy: str,
    reporter: Reporter,
) -> Iterator[_Session]:
    """Bring up a DataSystem and the engines that some cases need, and warm them up; all is gone with the block."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yrpd-bench-")))
        store = home / "datasystem"
        store.mkdir()
        arms = [arm for arm in profile.arms if any(arm in case.arms for case in cases)]
        with reporter.step(f"engines: {', '.join(arms)}"):
            flags = worker_flags(store, profile.datasystem_disk_mb)
            address = stack.enter_context(etcd(store)).address
            worker = stack.enter_context(datasystem_worker(store, address, profile.datasystem_mb, flags)).address
            load = stack.enter_context(generator(home / "generator"))
            tag = f"bench-{ledger.document['salt']}"
            up = stack.enter_context(engines(profile, arms, model, dtype, home / "engines", worker, tag, envoy))
        tiers = TierLog(store / "datasystem" / "logs" / "resource.log", _reads)
        session = _Session(profile, model, words, ledger, up, load, tiers, home)
        with reporter.step("warm-up with prompts of their own"):
            session.warm_up()
        yield session


def configuration(project: Project, profile: Profile, model: Path, dtype: str) -> dict[str, Any]:
    """Return all that a result depends on; two runs compare when it is equal."""
    seen = {key: value for key, value in measured_environment(project).items() if key not in _VOLATILE}
    return {
        "profile": profile.name,
        "cases": describe(profile.cases),
        "device_tokens": profile.device_tokens,
        "block_size": profile.block_size,
        "starts_anew": profile.starts_anew,
        "datasystem_mb": profile.datasystem_mb,
        "datasystem_disk_mb": profile.datasystem_disk_mb,
        "model": json.loads((model / "config.json").read_text(encoding="utf-8")),
        "model_digest": _digest(model),
        "kv_bytes_per_token": model_sizes(model).bytes_per_token,
        # By the model's name: where the checkout is decides nothing, and reports are published.
        "engines": {arm: command_lines(profile, arm, Path(model.name), dtype, (0, 0), "", "") for arm in profile.arms},
        "engine_settings": dict(SETTINGS),
        "processor": _processor(),
        **seen,
    }


def _digest(folder: Path) -> str:
    """Return the identity of a model's files."""
    digest = hashlib.sha256()
    for path in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


class _Session:
    """The engines of one session and what is asked of them."""

    def __init__(
        self,
        profile: Profile,
        model: Path,
        words: Words,
        ledger: Ledger,
        up: Mapping[str, Engine],
        load: Generator,
        tiers: TierLog,
        home: Path,
    ) -> None:
        self.profile, self.model, self.words, self.ledger = profile, model, words, ledger
        self.up, self.load, self.tiers, self.home = up, load, tiers, home

    def warm_up(self) -> None:
        """Send every engine prompts that nothing else has, of the longest length."""
        longest = self.profile.longest - OUTPUT_TOKENS
        shape = make_shape(Wanted("unique", longest, _WARM_UP_PROMPTS, 1, output=OUTPUT_TOKENS))
        for arm in self.up:
            salt = f"warm-up-{arm}-{self.ledger.attempt()}"
            self._serve(arm, Part(shape, 0, shape.count), 0, salt, ONE.concurrency, 0.0)

    def measure(self, case: Case, number: int) -> None:
        """Run one repetition on all arms: the same prompts for each, which no other repetition or attempt has."""
        salt = self.ledger.attempt()
        rate = self._rate(case)
        # The order of the prompts is drawn anew with every salt, too.
        shape = make_shape(replace(case.wanted, salt=salt, output=OUTPUT_TOKENS))
        expected = expect(shape, self.profile.device_blocks - 1, self.profile.block_size, OUTPUT_TOKENS)
        pieces: dict[str, list[dict[str, Any]]] = {arm: [] for arm in case.arms}
        for start, stop, arms in case.turns(number, shape.count):
            for arm in arms:
                part = Part(shape, start, stop)
                pieces[arm].append(self._serve(arm, part, case.wanted.seed, salt, case.load.concurrency, rate))
        dataset = {
            "shape": shape.name,
            "length": shape.longest,
            "groups": case.wanted.groups,
            "prompts": shape.count,
            "prompt_tokens": expected.tokens,
            "ceiling": expected.ceiling_rate,
            "expected_device": expected.device_rate,
            "opening_tokens": OPENING_TOKENS,
            "salt": salt,
        }
        load = {"concurrency": case.load.concurrency, "rate": rate}
        results = {arm: {"arm": arm, "dataset": dataset, "load": load, "pieces": pieces[arm]} for arm in case.arms}
        self.ledger.add(case.name, number, results)

    def _serve(self, arm: str, part: Part, seed: int, salt: str, concurrency: int, rate: float) -> dict[str, Any]:
        opened = Opened(part, OPENING_TOKENS)
        path, result = self.home / "prompts.jsonl", self.home / "result.json"
        digest = write_vllm(path, Writer(self.words, seed, salt), opened, 0, OUTPUT_TOKENS, lambda _: None)
        engine = self.up[arm]
        before, reads = counted.read(engine.metrics()), self.tiers.reads()
        self.load.run(argv(engine, self.model, path, opened.count, concurrency, rate, result))
        grown = counted.growth(before, counted.read(engine.metrics()))
        # D's loads have counters of their own; every block that P saved or found is one of them.
        tiers = {} if arm == PAIR else self.tiers.since(reads, int(grown["yuanrong_loaded_blocks_total"]))
        raw = json.loads(result.read_text(encoding="utf-8"))
        result.unlink()
        return {"prompts": part.count, "sha256": digest, "counters": grown, "tiers": tiers, "result": raw}

    def _rate(self, case: Case) -> float:
        if not case.load.of_capacity:
            return 0.0
        closed = f"{case.wanted.shape}-{case.wanted.length}-{ONE.name}"
        rounds = self.ledger.results().get(closed)
        if not rounds:
            raise ConfigurationError(f"The open loop of {case.name} needs the capacity that {closed} measures first.")
        first = rounds[0][BASELINE]
        seconds = float(sum(piece["result"]["duration"] for piece in first["pieces"]))
        return case.load.of_capacity * int(first["dataset"]["prompts"]) / seconds


def _reads(line: str) -> Mapping[str, int] | None:
    from vllm_ascend.distributed.yuanrong.tiers import parse  # there in the built environment alone

    figures = parse(line)
    return None if figures is None else figures.reads


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
