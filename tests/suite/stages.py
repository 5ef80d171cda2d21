"""The suite's stages as data, and which of them a mode runs. Nothing is run or looked at here."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace


class Mode(enum.StrEnum):
    """What is asked for.

    Attributes:
        UNIT: The unit tests alone; nothing is installed but ``.venv``.
        SHORT: The product proved once, in 15 minutes on two cores.
        ALL: Everything; what CI runs.
        FULL: Everything, with the long form of the property, fault and benchmark tests.
        EMULATED: All tests on the emulated NPU.
        COVERAGE: Which lines of the series served requests execute.
    """

    UNIT = "unit"
    SHORT = "short"
    ALL = "all"
    FULL = "full"
    EMULATED = "emulated"
    COVERAGE = "coverage"


class Need(enum.StrEnum):
    """What a stage needs of the machine beside ``.venv``."""

    LIBRARIES = "Debian's compilers, vLLM's system libraries and etcd"
    DOCKER = "a Docker engine, or root and Debian's docker.io to start one"
    ROOT = "root, for network namespaces and mounts"
    NETWORK = "the package index that pip is configured with"


class Runner(enum.StrEnum):
    """Which interpreter runs a stage's tests."""

    TOOLS = "the tools' .venv"
    VLLM = "the environment that `invoke build --flavour cpu` makes"
    EMULATED = "that environment with the emulated NPU"
    COMMAND = "the commands themselves"


@dataclass(frozen=True)
class Form:
    """What a stage runs in some modes.

    Attributes:
        modes: Those modes.
        minutes: What it takes on two cores after the stages before it; docs/testing.md has the run.
        arguments: pytest's, or none for a stage of commands.
        environment: Variables that are set for it.
        needs: What it needs beside the stage's own needs.
    """

    modes: frozenset[Mode]
    minutes: float
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    needs: frozenset[Need] = frozenset()


@dataclass(frozen=True)
class Stage:
    """One call of pytest, or some commands.

    Attributes:
        name: Names its results, ``build/tests/<name>.xml``.
        title: What it proves.
        runner: Who runs it.
        forms: By mode; a mode that no form has leaves the stage out.
        needs: What it needs of the machine.
        pin: The pin whose environment it runs in, for runners that have one.
        commands: What is run first; all there is for ``Runner.COMMAND``.
        lane: Stages that follow each other and have lanes run beside each other, those of one lane in order.
    """

    name: str
    title: str
    runner: Runner
    forms: tuple[Form, ...]
    needs: frozenset[Need] = frozenset()
    pin: str = ""
    commands: tuple[tuple[str, ...], ...] = ()
    lane: str = ""


@dataclass(frozen=True)
class Planned:
    """A stage as one call runs it.

    Attributes:
        stage: The stage.
        form: The form that the mode has.
        lacking: What the machine has not, with its reason; the stage is run if there is none.
    """

    stage: Stage
    form: Form
    lacking: tuple[str, ...] = ()


_ALL = frozenset({Mode.ALL, Mode.FULL})
_SHORT = frozenset({Mode.SHORT})
_EVER = _ALL | _SHORT
_ON_VLLM = frozenset({Need.LIBRARIES})
_DOCKER = frozenset({Need.DOCKER, Need.ROOT, Need.LIBRARIES})
_CONNECTOR = "tests/integration/connector"
_INTERLEAVINGS = f"{_CONNECTOR}/test_interleavings.py"
_FAULTS = f"{_CONNECTOR}/test_harness_finds_faults.py"
_ELSEWHERE = (f"--ignore={_INTERLEAVINGS}", f"--ignore={_FAULTS}")
_SCHEDULER = "tests/integration/vllm_ascend"
# A real DataSystem's answers are the same whichever vLLM asks.
_STORES = tuple(f"--ignore={_CONNECTOR}/test_{name}.py" for name in ("datasystem", "worker_keys", "worker_security"))
_DATASETS = "tests/integration/workshop/bench"
_GIT, _GIT_LONG = ("patching", "documents"), ("workshop/publishing", "reporting")
_SERVED = tuple(
    f"tests/emulated_npu/test_{name}.py"
    for name in ("text", "images", "parallel", "latent", "preemption", "served", "ascend_scheduler", "refused_starts")
)

# What of the emulated NPU follows the connector's tests in their lane, so that both lanes are of one length.
_BESIDE = tuple(
    f"tests/emulated_npu/test_{name}.py" for name in ("cann", "device", "operators", "upstream", "refused_starts")
)


def _interleavings(modes: frozenset[Mode], minutes: float, number: int, *more: str) -> Form:
    environment = {"YUANRONG_INTERLEAVINGS": str(number), "PYTHONHASHSEED": "0"}  # a seed names an interleaving
    return Form(modes, minutes, ("-n", "auto", "-rfEsP", *more, _INTERLEAVINGS), environment)


def stages(default_pin: str, other_pins: Iterable[str]) -> tuple[Stage, ...]:
    """Return all stages in the order in which they run: what fails soonest comes first.

    What shares nothing but processor time runs on every core: unit tests, git on small repositories, random
    interleavings. The emulated NPU keeps one core busy and the connector's tests mostly wait, so they run in two lanes.
    What is served on the CPU or by a lab runs alone: its deadlines are part of what is tested.

    Args:
        default_pin: The pin that every mode tests.
        other_pins: Those that ``all`` tests, too.
    """
    other_pins = tuple(other_pins)
    found = [
        Stage(
            "style", "ruff, mypy, whitespace and prose: .pre-commit-config.yaml", Runner.COMMAND, (Form(_EVER, 0.5),),
            commands=(("pre-commit", "run", "--all-files", "--show-diff-on-failure"),),
        ),
        Stage(
            "unit", "unit tests", Runner.TOOLS,
            (
                Form(_SHORT | {Mode.UNIT}, 0.75, ("-n", "auto", "tests/unit")),
                Form(_ALL, 1, ("-n", "auto", "tests/unit"), {"YRPD_TEST_EXHAUSTIVE": "1"}),
            ),
        ),
        Stage(
            "git", "the series on real git; what documents tell; releases and reports of this project", Runner.TOOLS,
            (
                Form(_SHORT, 2, ("-n", "auto", *(f"tests/integration/{name}" for name in _GIT))),
                Form(_ALL, 2, ("-n", "auto", *(f"tests/integration/{name}" for name in (*_GIT, *_GIT_LONG)))),
            ),
        ),
        Stage(
            "build", "invoke patch build", Runner.COMMAND,
            (Form(_EVER | {Mode.EMULATED, Mode.COVERAGE}, 2),), _ON_VLLM, default_pin,
            commands=(("invoke", "patch", "--pin", default_pin, "build", "--pin", default_pin),),
        ),
        Stage(
            "interleavings", "random interleavings of vLLM's schedulers", Runner.VLLM,
            (
                _interleavings(_SHORT, 1, 25),
                _interleavings(frozenset({Mode.ALL}), 3, 120, _FAULTS),
                _interleavings(frozenset({Mode.FULL}), 20, 2000, _FAULTS),
            ),
            _ON_VLLM, default_pin,
        ),
    ]  # fmt: skip
    for pin in other_pins:
        found += [
            Stage(
                f"build-{pin}", f"invoke patch build --pin {pin}", Runner.COMMAND, (Form(_ALL, 1.5),), _ON_VLLM, pin,
                commands=(("invoke", "patch", "--pin", pin, "build", "--pin", pin),),
            ),
            Stage(
                f"interleavings-{pin}", f"random interleavings on {pin}", Runner.VLLM,
                (
                    _interleavings(frozenset({Mode.ALL}), 1, 25),
                    _interleavings(frozenset({Mode.FULL}), 20, 2000, _FAULTS),
                ),
                _ON_VLLM, pin,
            ),
        ]  # fmt: skip
    found.append(
        Stage(
            "front-door", "the first steps against the package index of next year", Runner.TOOLS,
            (Form(_ALL, 4, ("-n", "auto", "tests/integration/front_door")),), frozenset({Need.LIBRARIES, Need.NETWORK}),
        )
    )  # fmt: skip
    return (*found, *_lanes(default_pin, other_pins), *_on_engines(default_pin))


def _lanes(default_pin: str, other_pins: Sequence[str]) -> Iterator[Stage]:
    """Yield what is served without Docker: faults under load alone, the emulated NPU beside what keeps no core busy."""
    yield Stage(
        "engines", "P and D served on the CPU", Runner.VLLM,
        (
            Form(_SHORT, 3, ("tests/integration/engines/test_answers.py",)),
            Form(_ALL, 7, ("tests/integration/engines",)),
            Form(frozenset({Mode.COVERAGE}), 10, ("tests/integration/engines",)),
        ),
        _ON_VLLM, default_pin,
    )  # fmt: skip
    yield Stage(
        "emulated", "the patched vllm-ascend on an emulated NPU", Runner.EMULATED,
        (
            Form(_SHORT, 3, ("tests/emulated_npu/test_served.py", "-k", "answers")),
            Form(_ALL, 8, ("tests/emulated_npu", *(f"--ignore={each}" for each in _BESIDE))),
            Form(frozenset({Mode.EMULATED}), 11, ("tests/emulated_npu",)),
            Form(frozenset({Mode.COVERAGE}), 10, _SERVED),
        ),
        _ON_VLLM, default_pin, lane="npu",
    )  # fmt: skip
    yield Stage(
        "aarch64", "the aarch64 wheels of the npu flavour, in QEMU", Runner.TOOLS,
        (
            Form(frozenset({Mode.ALL}), 1, ("tests/aarch64", "-m", "not full")),
            Form(frozenset({Mode.FULL}), 7, ("tests/aarch64",)),
        ),
        frozenset({Need.LIBRARIES, Need.NETWORK}), lane="cpu",
        commands=(("invoke", "patch", "--pin", default_pin),),
    )  # fmt: skip
    yield Stage(
        "connector", "the connector on real vLLM and a real DataSystem; the endpoint", Runner.VLLM,
        (
            Form(_SHORT, 2, (_CONNECTOR, *_ELSEWHERE)),
            Form(_ALL, 5.5, (_CONNECTOR, _SCHEDULER, _DATASETS, "tests/integration/serving", *_ELSEWHERE)),
        ),
        _ON_VLLM, default_pin, lane="cpu",
    )  # fmt: skip
    for pin in other_pins:
        yield Stage(
            f"connector-{pin}", f"the connector on {pin}", Runner.VLLM,
            (Form(_ALL, 3, (_CONNECTOR, _SCHEDULER, *_ELSEWHERE, *_STORES)),), _ON_VLLM, pin, lane="cpu",
        )  # fmt: skip
    yield Stage(
        "emulated-parts", "devices, operators, CANN and refused starts on the emulated NPU", Runner.EMULATED,
        (Form(_ALL, 3, _BESIDE),), _ON_VLLM, default_pin, lane="cpu",
    )  # fmt: skip


def _on_engines(default_pin: str) -> Iterator[Stage]:
    """Yield what needs Docker engines."""
    elsewhere = ("connector", "serving", "vllm_ascend", "workshop/bench", "engines", *_GIT, *_GIT_LONG, "front_door")
    no_docker = tuple(f"--ignore=tests/integration/{name}" for name in elsewhere)
    yield Stage(
        "docker", "images, releases, labs, deployments: real Docker engines, end to end", Runner.TOOLS,
        (Form(_ALL, 25, ("tests/integration", "tests/e2e", *no_docker)),), _DOCKER | {Need.NETWORK}, default_pin,
        commands=(("bash", "-c", ". scripts/setup.sh; build_engine"),),
    )  # fmt: skip


def in_turn(planned: Sequence[Planned]) -> tuple[tuple[tuple[Planned, ...], ...], ...]:
    """Return what runs after each other: for each turn the lanes that run beside each other, with their stages.

    Args:
        planned: The stages of a run, in order.
    """
    turns: list[dict[str, list[Planned]]] = []
    for each in planned:
        if not each.stage.lane or not turns or "" in turns[-1]:
            turns.append({})
        turns[-1].setdefault(each.stage.lane, []).append(each)
    return tuple(tuple(map(tuple, lanes.values())) for lanes in turns)


def minutes(planned: Iterable[Planned]) -> float:
    """Return what they take on two cores: of lanes beside each other the longest."""
    able = [each for each in planned if not each.lacking]
    return sum(max(sum(each.form.minutes for each in lane) for lane in turn) for turn in in_turn(able))


def plan(
    every: Iterable[Stage], mode: Mode, lacking: Mapping[Need, str], names: Collection[str] = ()
) -> tuple[Planned, ...]:
    """Return what a mode runs, with what each stage lacks.

    Args:
        every: All stages.
        mode: What is asked for.
        lacking: What the machine has not, with the reason.
        names: Only these stages, and the builds of their pins; all when empty.
    """
    every = tuple(every)
    pins = {stage.pin for stage in every if stage.name in names} - {""}
    wanted = {stage.name for stage in every if stage.runner is Runner.COMMAND and stage.pin in pins} | set(names)
    chosen = [
        Planned(stage, form)
        for stage in every
        for form in stage.forms
        if mode in form.modes and (not names or stage.name in wanted)
    ]
    return tuple(
        replace(
            each,
            lacking=tuple(lacking[need] for need in sorted(each.stage.needs | each.form.needs) if need in lacking),
        )
        for each in chosen
    )


def announcement(mode: Mode, planned: Iterable[Planned]) -> str:
    """Return what is printed before anything runs: every stage, its minutes, and what is left out and why."""
    planned = tuple(planned)
    able = [each for each in planned if not each.lacking]
    lines = [f"{mode}: {len(able)} of {len(planned)} stages, about {minutes(planned):.0f} minutes on two cores"]
    for each in planned:
        lines.append(f"  {each.stage.name:<24} {each.form.minutes:>4g} min  {each.stage.title}")
        lines += [f"  {'':<24} not run: {reason}" for reason in each.lacking]
    return "\n".join(lines)
